"""Running a scope's calls: which, in what order, and what if one fails.

The rules, in one place:

- First registered, first run. A call that registers another adds it to the end.
- Each call is asked just before it would run whether it wants this outcome.
- A call that raises has failed; the next one runs. So it is with one that reaches its
  time limit.
- Nothing is raised to the server, but for an order to stop: gunicorn's, or that of a
  time limit around it all. Then every call that did not run is lost.
- The observers hear of each, the log among them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import monotonic

from . import _host, _limit
from ._call import Around, Call, DeferredCall, run_job
from ._future import RAISED, RETURNED
from ._host import TimeUp, is_order_to_stop
from ._observer import Observer, Observers
from ._outcome import Outcome
from ._pool_kinds import Pools
from ._scope import MAX_CALLS, Options, Scope, enter, get_current, leave

logger = logging.getLogger("wsgi_defer")


def drain(scope: Scope, outcome: Outcome, give_way: bool = False) -> bool:
    """Run the scope's deferred calls and close it. Raises nothing of theirs.

    With ``give_way``, returns False before the next call if a client waits for this
    process. The rest is then still to be drained, elsewhere.
    """
    scope.outcome = outcome
    if outcome.error is not None and scope.stopped:
        # It ended the view. gunicorn 22+ goes on as if it were any error, and kills
        # the worker a second later.
        report_lost(scope, _reason(outcome.error))
        return True
    try:
        while scope._deferred:
            if give_way and _host.current.client_waiting():
                return False
            if (call := scope.take()) is not None:
                _run(call, scope, outcome)
        scope.closed = True
        # What another thread added between the last look and the line above.
        while (call := scope.take()) is not None:
            _run(call, scope, outcome)
        scope.end_guests()
    except BaseException as error:  # an order to stop
        report_lost(scope, _reason(error))
        raise
    finally:
        if outcome.error is not None:  # which leads back to here, and to the scope
            scope.outcome = outcome._replace(error=None)
    return True


def run_held(scope: Scope) -> Exception | None:
    """Run the calls held for the response; return what the first failing one raised.

    The calls after it are discarded.
    """
    scope.started = True
    heard = scope.options.observers
    while (call := scope.take_held()) is not None:
        job = call.take()
        if job is None:  # another thread was quicker
            scope.skip(call, "it was cancelled")
            continue
        call._started_at = monotonic()
        heard.tell(heard.started, call, scope)
        try:
            value = run_job(job, None if call.bare else scope.options.around)
        except BaseException as error:
            if is_order_to_stop(error):
                scope.lose(call, _reason(error))
                raise
            _conclude(call, scope, RAISED, error=error)
            if not isinstance(error, Exception):
                raise
            discard_held(scope, "one before it failed")
            return error
        _conclude(call, scope, RETURNED, value)
    return None


def discard_held(scope: Scope, why: str) -> None:
    """Drop the calls that were held for a response, and let it start.

    If an order to stop has ended it, they stay, and are lost with the others.
    """
    scope.started = True
    if scope.stopped:
        return
    while (call := scope.take_held()) is not None:
        scope.skip(call, why)


def report_lost(scope: Scope, why: str, *, running: bool = True) -> None:
    """Close the scope; every call that did not run to its end is lost.

    ``running`` is False where the one that runs may yet come to its end.
    """
    scope.closed = True
    if running:
        for call in scope.under_way():
            scope.lose(call, why)
    scope.lose_rest(why)
    if running:  # and what another thread has begun meanwhile
        for call in scope.under_way():
            scope.lose(call, why)
    scope.end_guests()


@contextmanager
def deferring(
    *,
    max_calls: int = MAX_CALLS,
    around: Around | None = None,
    observers: Iterable[Observer] = (),
    time_limit: float | None = None,
    slow_after: float | None = None,
    pools: Pools | None = None,
) -> Iterator[Scope]:
    """Open a scope where there is no request: a command, a queue task, a test.

    Its calls run when the block ends, before its exception goes on, if it raised one.
    The outcome is then a failure, except for ``SystemExit`` with code 0. Calls of
    ``before_response()`` run first; what one raises, the block raises. The arguments
    are those of ``DeferMiddleware``. Inside a request, ``pools`` are its own ones by
    default.
    """
    options = Options(
        max_calls, around, time_limit=time_limit, slow_after=slow_after, pools=pools
    ).checked()
    if observers := tuple(observers):
        options = options._replace(observers=Observers(observers))
    outer = get_current()
    if pools is None and outer is not None:
        options = options._replace(pools=outer.options.pools)
    scope = Scope(options)
    scope._outer = outer
    token = enter(scope)
    error: BaseException | None = None
    try:
        yield scope
    except BaseException as raised:
        succeeded = isinstance(raised, SystemExit) and not raised.code
        if not succeeded or is_order_to_stop(raised):
            error = raised
        raise
    finally:
        leave(token)
        _end_block(scope, error)
        del error


def _end_block(scope: Scope, error: BaseException | None) -> None:
    refusal: BaseException | None = None
    if error is None:
        try:
            error = refusal = run_held(scope)
        except BaseException as raised:
            error = refusal = raised
    scope.stopped = error is not None and is_order_to_stop(error)
    discard_held(scope, "the block raised")
    drain(scope, Outcome(status=None, error=error))
    if refusal is not None:
        raise refusal


def _reason(order: BaseException) -> str:
    if isinstance(order, TimeUp):
        return "the call that waits for it was ended at its time limit"
    if is_order_to_stop(order):
        return _host.current.why
    return f"wsgi_defer failed with {type(order).__name__}"


def _run(call: DeferredCall, scope: Scope, outcome: Outcome) -> None:
    _host.current.beat()
    try:
        wanted = call.wants(outcome)
    except BaseException as error:
        if is_order_to_stop(error):
            raise
        call.take()
        _conclude(call, scope, RAISED, error=error)
        return
    if not wanted:
        scope.skip(call, "it waits for another outcome")
    elif call._before is not None and call._before.cancelled():
        scope.skip(call, "the call that it follows did not run")
    else:
        _run_now(call, scope)
    # The call keeps what it raised, and that leads back to all these frames; so none of
    # them keeps the call.
    del call


def _run_now(call: DeferredCall, scope: Scope) -> None:
    job = call.take()
    if job is None or not call._untold:  # another thread has run or lost it, just now
        return
    options = scope.options
    heard = options.observers
    try:
        call._started_at = monotonic()
        if heard.started:
            heard.tell(heard.started, call, scope)
        limit = options.time_limit if call._limit is None else call._limit
        if limit is None and options.slow_after is None:
            value = run_job(job, options.around)
        else:
            value = _limit.run(job, call, scope, limit)
    except BaseException as error:
        if is_order_to_stop(error):
            scope.lose(call, _reason(error))
            raise
        _conclude(call, scope, RAISED, error=error)
    else:
        _conclude(call, scope, RETURNED, value)
    del call, job  # see above


Scope.run_call = staticmethod(_run_now)


def _conclude(
    call: Call,
    scope: Scope,
    end: int,
    value: object = None,
    error: BaseException | None = None,
) -> None:
    call._ended_at = monotonic()
    if call._claim_end(end, value, error):  # else it was lost meanwhile
        heard = scope.options.observers
        if error is not None:
            scope.failed += 1
            heard.tell(heard.failed, call, scope, error)
        else:
            scope.finished += 1
            if heard.finished:
                heard.tell(heard.finished, call, scope)
        try:
            call._publish()
        except BaseException as raised:  # by a callback of the app's
            if is_order_to_stop(raised):
                raise
            logger.exception("a callback of the deferred call %s failed", call.label)
    if scope.running is call:
        scope.running = None
