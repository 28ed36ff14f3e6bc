"""The drain by itself: what only shows with a scope made by hand."""

from __future__ import annotations

from wsgi_defer import Outcome, Scope, defer, deferring
from wsgi_defer._drain import drain, report_lost
from wsgi_defer._scope import enter, leave


class SlowToClose(Scope):
    """A scope to which another thread adds a call just as it is closed."""

    def __setattr__(self, name, value):
        if name == "closed" and not self.registered:
            token = enter(self)
            defer(self.late)
            leave(token)
        super().__setattr__(name, value)


def test_a_call_that_comes_at_the_last_moment_runs(ran):
    """The drain looks once more after it has closed the scope."""
    scope = SlowToClose()
    scope.late = lambda: ran.append(1)
    drain(scope, Outcome(200))
    assert ran == [1]
    assert scope.closed


def test_report_lost(caplog):
    """Every call is named, those that wait and the one that runs; then dropped."""
    with deferring() as scope:
        report_lost(scope, "nothing to report")
        call = defer(print, "secret").named("the running one")
        scope.take()
        report_lost(scope, "the end", call)
        defer(print, "secret")
        report_lost(scope, "the end")
        assert scope.pending == ()
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0].startswith("deferred call the running one cut off: the end;")
    assert messages[1:] == ["1 deferred calls lost: the end: builtins.print"]
    assert call.cancel()
