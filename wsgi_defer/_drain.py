"""Running a scope's calls: which, in what order, and what if one fails.

The rules, in one place:

- First registered, first run. A call that registers another adds it to the end.
- Each call is asked just before it would run whether it wants this outcome.
- A call that raises is logged, with the line that registered it; the next one runs.
- Nothing is raised to the server, but for gunicorn's order to stop. Then every call
  that did not run is named in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ._call import Around, Call, DeferredCall
from ._outcome import Outcome
from ._scope import MAX_CALLS, Scope, enter, leave

logger = logging.getLogger("wsgi_defer")


def drain(scope: Scope, outcome: Outcome) -> None:
    """Run the scope's deferred calls and close it. Raises nothing of theirs."""
    if outcome.error is not None and _is_gunicorns_order_to_stop(outcome.error):
        # It ended the view. gunicorn 22+ goes on as if it were any error, and kills
        # the worker a second later.
        report_lost(scope, "the worker was told to stop")
        return
    try:
        while (call := scope.take()) is not None:
            _run(call, scope, outcome)
        scope.closed = True
        # What another thread added between the last look and the line above.
        while (call := scope.take()) is not None:
            _run(call, scope, outcome)
    except BaseException:  # gunicorn's order to stop
        report_lost(scope, "the worker was told to stop")
        raise


def run_held(scope: Scope) -> Exception | None:
    """Run the calls held for the response; return what the first failing one raised.

    The failure is logged, and the calls after it are discarded.
    """
    scope.started = True
    while (call := scope.take_held()) is not None:
        try:
            call.run(scope.around)
        except Exception as error:
            scope.failed += 1
            _log_failure("before_response", call, error)
            discard_held(scope, "one before it failed")
            return error
        scope.finished += 1
    return None


def discard_held(scope: Scope, why: str) -> None:
    """Drop the calls that were held for a response, and let it start."""
    scope.started = True
    while (call := scope.take_held()) is not None:
        _skip(call, scope, why)


def report_lost(scope: Scope, why: str) -> None:
    """Close the scope, and name in the log every call that did not run to its end."""
    scope.closed = True
    running, lost = scope.running, scope.pending
    if running is not None:
        _log(logging.ERROR, "deferred call %s cut off: %s; from %s",
             running.label, why, running.origin)  # fmt: skip
    if lost:
        names = ", ".join(call.label for call in lost)
        _log(logging.ERROR, "deferred calls lost (%d): %s: %s", len(lost), why, names)
    for call in lost:
        call.cancel()


@contextmanager
def deferring(
    *, max_calls: int = MAX_CALLS, around: Around | None = None
) -> Iterator[Scope]:
    """Open a scope where there is no request: a command, a queue task, a test.

    Its calls run when the block ends, before its exception goes on, if it raised one.
    The outcome is then a failure, except for ``SystemExit`` with code 0. Calls of
    ``before_response()`` run first; what one raises, the block raises. The arguments
    are those of ``DeferMiddleware``.
    """
    check_options(max_calls, around)
    scope = Scope(max_calls, around)
    token = enter(scope)
    error: BaseException | None = None
    try:
        yield scope
    except BaseException as raised:
        if not (isinstance(raised, SystemExit) and not raised.code):
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
    discard_held(scope, "the block raised")
    drain(scope, Outcome(status=None, error=error))
    if refusal is not None:
        raise refusal


def check_options(max_calls: int, around: Around | None) -> None:
    """Refuse options that would fail later, at the first call."""
    if max_calls < 1:
        raise ValueError(f"max_calls must be at least 1, not {max_calls}")
    if around is not None and not callable(around):
        kind = type(around).__name__
        raise TypeError(f"around must return a context manager when called, not {kind}")


def _run(call: DeferredCall, scope: Scope, outcome: Outcome) -> None:
    try:
        if not call.wants(outcome):
            _skip(call, scope, "it waits for another outcome")
            return
        scope.running = call
        call.run(scope.around)
    except BaseException as error:
        scope.failed += 1
        if _is_gunicorns_order_to_stop(error):
            raise
        _log_failure("deferred", call, error)
        call.cancel()
    else:
        scope.finished += 1
    scope.running = None


def _skip(call: Call, scope: Scope, why: str) -> None:
    scope.skipped += 1
    call.cancel()
    if logger.isEnabledFor(logging.DEBUG):
        _log(logging.DEBUG, "call %s skipped: %s; from %s",
             call.label, why, call.origin)  # fmt: skip


def _log_failure(kind: str, call: Call, error: BaseException) -> None:
    # The message of the exception is logged with its traceback, as for any error in
    # a view; the arguments of the call are not.
    _log(logging.ERROR, "%s call %s failed; from %s",
         kind, call.label, call.origin, exc_info=error)  # fmt: skip


def _log(level: int, message: str, *args: object, **more: Any) -> None:
    # A filter that raises must not cost the calls that are still to run.
    with suppress(Exception):
        logger.log(level, message, *args, **more)


def _is_gunicorns_order_to_stop(error: BaseException) -> bool:
    """Tell gunicorn's ``sys.exit()`` in a signal handler from one in a deferred call.

    gunicorn/workers/base.py: handle_abort and handle_quit, on the worker's timeout
    and on INT or QUIT. Running on would only get the worker killed a second later.
    """
    trace = error.__traceback__
    if not isinstance(error, SystemExit) or trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    return str(trace.tb_frame.f_globals.get("__name__")).startswith("gunicorn.")
