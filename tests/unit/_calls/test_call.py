"""Call and DeferredCall by themselves."""

from __future__ import annotations

import functools

from wsgi_defer import defer, deferring
from wsgi_defer._calls.future import CANCELLED
from wsgi_defer._runtime.report import qualified_name


class Callable:
    """An instance that can be called, with a repr() that tells too much."""

    def __call__(self, secret):
        pass

    def method(self, secret):
        pass

    def __repr__(self):
        return "secret"


class Unbound:
    """A proxy without its object: whatever is asked of it raises."""

    def __getattr__(self, name):
        raise RuntimeError("working outside of context")

    def __call__(self):
        pass


def test_qualified_name():
    """Every kind of callable has a name, and none shows its arguments."""
    partial = functools.partial(functools.partial(qualified_name, "secret"), "secret")
    assert qualified_name(qualified_name) == "wsgi_defer._runtime.report.qualified_name"
    assert qualified_name(partial) == "wsgi_defer._runtime.report.qualified_name"
    assert qualified_name(print) == "builtins.print"
    assert qualified_name([].append) == "list.append"
    assert qualified_name(Callable) == "tests.unit._calls.test_call.Callable"
    assert qualified_name(Callable()) == "tests.unit._calls.test_call.Callable"
    assert (
        qualified_name(Callable().method)
        == "tests.unit._calls.test_call.Callable.method"
    )
    assert qualified_name(Unbound()) == "tests.unit._calls.test_call.Unbound"
    assert "<lambda>" in qualified_name(lambda: None)


def test_label():
    """The given name, or the function's."""
    with deferring():
        call = defer(print, "secret")
        assert call.label == "builtins.print"
        assert call.named("mail").label == "mail"


def test_origin():
    """The line of the defer(), also when it is spread over several."""
    with deferring():
        one = defer(int)
        several = defer(
            int,
            1,
        )
    line = test_origin.__code__.co_firstlineno
    assert one.origin == f"{__file__}:{line + 3}"
    assert several.origin in {f"{__file__}:{line + n}" for n in (4, 5, 6, 7)}


def test_a_call_that_is_lost_while_it_is_taken(ran):
    """Its end was told, by another thread, before it was taken: so it does not run."""
    with deferring():
        call = defer(ran.append, 1)
        assert call.claim_end(CANCELLED)
        assert call.start() is None
    assert ran == []


def test_running_a_finished_call_again_does_nothing(ran):
    """At most once, whoever asks."""
    with deferring():
        call = defer(ran.append, 1)
    assert call.take() is None
    assert call.cancel() is False
    assert call.take() is None
    assert ran == [1]
