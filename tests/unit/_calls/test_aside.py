"""Where hooks of the app run around a call, what they register comes to nothing."""

from __future__ import annotations

from wsgi_defer import before_response, current_scope, defer, deferring
from wsgi_defer._calls.aside import WHY, aside

from ...helpers.pools import POOLS


def test_what_is_registered_there_is_skipped(ran, caplog):
    """Of either kind; a call that is needed runs at once; what is around, stays."""
    caplog.set_level("DEBUG", "wsgi_defer")
    with deferring() as scope:
        defer(ran.append, "outside")
        with aside():
            call = defer(ran.append, "inside")
            before_response(ran.append, "inside")
            assert defer(divmod, 7, 2).result() == (3, 1)
            defer(ran.append, "inside").cancel()
        assert call.cancelled()
        assert current_scope() is scope
    assert ran == ["outside"]
    assert caplog.text.count(WHY) == 2


def test_its_pools_are_those_around(ran):
    """And without a scope around it, the default."""
    with deferring(pools=POOLS), aside():
        assert current_scope().options.pools.keys() >= POOLS.keys()
    with aside():
        defer(ran.append, "inside")
    assert ran == []
    assert current_scope() is None
