"""The warning about Flask apps without Defer(app). test_flask.py has more."""

from __future__ import annotations

from wsgi_defer import defer, deferring
from wsgi_defer._request.bare_flask import warn_of_bare_flask


def test_a_call_that_has_ended(ran, caplog):
    """Another thread was that quick; its context is gone."""
    with deferring():
        call = defer(ran.append, 1)
    assert call.context is None
    warn_of_bare_flask([call])
    assert caplog.text == ""
