"""The errors say what happened, to what, and what to do next."""

from __future__ import annotations

import pickle

import pytest

from wsgi_defer import errors


@pytest.mark.parametrize(
    ("error", "attribute", "words"),
    [
        (errors.NoScopeError("defer"), "function", "DeferMiddleware"),
        (errors.ScopeClosedError("defer"), "function", "deferring()"),
        (errors.TooManyCallsError(7), "limit", "max_calls"),
        (errors.ResponseStartedError(), None, "use defer()"),
        (errors.UnknownPoolError("a", ("b",)), "pool", "pools="),
        (errors.PoolTimeoutError("a", "app.fetch", 2.5), "seconds", "max_wait"),
        (errors.PoolTimeoutError("a", "app.fetch", 2.5, "Why."), "why", "Why."),
        (errors.PoolClosedError("a"), "pool", "exiting"),
        (errors.WorkerDiedError("a", "app.fetch", -9), "exitcode", "not run again"),
        (errors.UnpicklableError("a", "app.fetch", "call", "E in T"), "why", "E in T"),
        (errors.PoolStartError("a", "no memory"), "why", "no memory"),
        (errors.RemoteError("OddError", "text"), "kind", "text"),
        (errors.RemoteTraceback("text"), "text", "text"),
    ],
)
def test_errors(error, attribute, words):
    """Each has one base, carries its fact, and survives pickling."""
    if type(error) is not errors.RemoteTraceback:  # which nobody raises
        assert isinstance(error, errors.DeferError)
    assert words in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error)
    if attribute:
        assert str(getattr(again, attribute)) in str(error)
