"""``deferring()``: a scope where there is no request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from .._calls.block import calls_run_after
from .._calls.invoke import Around
from .._calls.options import GRACE, MAX_CALLS, Options
from .._calls.scope import Scope, get_current
from ..observers._observer import Observer
from ..observers._observers import Observers
from ..pools._kinds import Pools, checked_pools


@contextmanager
def deferring(
    *,
    max_calls: int = MAX_CALLS,
    around: Around | None = None,
    observers: Iterable[Observer] = (),
    time_limit: float | None = None,
    time_limit_grace: float = GRACE,
    slow_after: float | None = None,
    pools: Pools | None = None,
) -> Iterator[Scope]:
    """Open a scope where there is no request: in a command, a queue task, a test.

    Its calls run when the block ends. If the block raised an exception, they run before
    that goes up, and the outcome is a failure, except for ``SystemExit`` with code 0.
    Ctrl-C, and a ``SystemExit`` from the handler of a signal, end the block and its
    calls at once; the log names those that are lost.
    Calls of ``before_response()`` run first; if one raises, so does the block. The
    arguments are those of ``DeferMiddleware``. Inside a request, ``pools`` are those of
    the request by default.
    """
    outer = get_current()
    options = Options(
        max_calls=max_calls,
        around=around,
        time_limit=time_limit,
        time_limit_grace=time_limit_grace,
        slow_after=slow_after,
        pools=None if pools is None else checked_pools(pools),
    ).checked()
    if observers := tuple(observers):
        options = options._replace(observers=Observers(observers))
    if pools is None and outer is not None:
        options = options._replace(pools=outer.options.pools)
    with calls_run_after(Scope(options, outer)) as scope:
        yield scope
