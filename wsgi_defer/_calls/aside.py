"""A scope for hooks of the app that run around a call: they have had their request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType

from .drain import discard_held
from .options import DEFAULTS
from .scope import Scope, enter, get_current, leave

WHY = "a hook of the app registered it around a call, as it has done for the request"


@contextmanager
def aside() -> Iterator[None]:
    """Skip whatever is registered inside: calls, held calls, and jobs that are held.

    A teardown function that defers something does so for its request. Around a call, it
    would add one call for each, and then one for each of those, without end.
    """
    outer = get_current()
    options = DEFAULTS
    if outer is not None and outer.options.pools is not None:
        options = DEFAULTS._replace(pools=outer.options.pools)
    # No ``around``: a hook may ask for a result, and that call would have such hooks.
    scope = Scope(options, outer)
    scope.answers = True  # so that a job is held, and not stored at once
    token = enter(scope)
    try:
        yield
    finally:
        leave(token)
        discard_held(scope, WHY)
        while scope.deferred or not scope.shut():
            if (call := scope.take()) is not None:
                scope.skip(call, WHY)
        scope.abandon_guests()


class Apart:
    """A context manager that begins and ends aside, unlike what is inside of it."""

    def __init__(self, manager: AbstractContextManager[object]) -> None:
        self._manager = manager

    def __enter__(self) -> None:
        with aside():
            self._manager.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        with aside():
            return self._manager.__exit__(kind, error, trace)
