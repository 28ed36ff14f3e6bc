"""Running a scope's calls: which, in what order, and what happens if one fails.

The rules, in one place:

- First registered, first run. A call that registers another adds it to the end.
- Just before each call would run, it is asked whether it wants this outcome.
- A call that raises, or reaches its time limit, has failed; the next one runs.
- Only an order to stop is raised to the server: ``KeyboardInterrupt``, a ``SystemExit``
  from the handler of a signal, or that of a time limit around it all. Then every call
  that did not run is lost.
- The observers hear of each, the log among them.
"""

from __future__ import annotations

from .._runtime import host
from .._runtime.forks import end_fork
from .._runtime.stop_orders import is_order_to_stop
from . import switch
from .call import DeferredCall
from .future import RAISED, RETURNED
from .invoke import invoke
from .options import WhenBusy
from .outcome import Outcome, not_ok
from .run import reason, run_now
from .scope import NOT_FOLLOWED, Scope


def drain(scope: Scope, outcome: Outcome, when_busy: WhenBusy = "inline") -> bool:
    """Run the scope's deferred calls and close it. Raises nothing of theirs.

    With ``when_busy="thread"``, returns False before the next call if a client waits
    for this process. Another thread is then to drain the rest.
    """
    scope.outcome = outcome
    if outcome.error is not None and scope.stopped:
        # The order ended the view. gunicorn 22+ treats it as any error, and kills the
        # worker a second later.
        report_lost(scope, reason(outcome.error))
        return True
    if switch.mode is not None and switch.mode.take(scope, outcome):
        return True
    ok = outcome.ok
    try:
        while scope.deferred or not scope.shut():
            may_hand_over = when_busy == "thread" and not scope.closed
            if may_hand_over and host.current.client_waiting():
                return False
            call = scope.take()
            if call is not None:
                host.current.beat()
                # Most calls have no option: without a frame more for each.
                plain = call._predicate is None and call.before is None
                if (ok and plain and not call.uncommitted) or is_wanted(
                    call, scope, outcome
                ):
                    run_now(call, scope)
            scope.running = None  # frame cycle; after an order to stop, it stays
            del call  # frame cycle
        if scope.guests:
            scope.abandon_guests()
    except BaseException as error:  # an order to stop
        report_lost(scope, reason(error))
        raise
    finally:
        if outcome.error is not None:  # frame cycle: it leads to the scope
            scope.outcome = outcome._replace(error=None)
    return True


def is_wanted(call: DeferredCall, scope: Scope, outcome: Outcome) -> bool:
    """Ask the call whether it runs after that. If not, this tells its end."""
    try:
        wanted = not call.uncommitted and call.wants(outcome)
    except BaseException as error:
        if is_order_to_stop(error):
            raise
        call.take()
        scope.conclude(call, RAISED, error=error)
        del call  # frame cycle
        return False
    if not wanted:
        scope.skip(call, _why_unwanted(call, outcome))
    elif call.before is not None and call.before.cancelled():
        scope.skip(call, NOT_FOLLOWED)
        wanted = False
    del call  # frame cycle
    return wanted


def _why_unwanted(call: DeferredCall, outcome: Outcome) -> str:
    """Why ``is_wanted()`` said no, for the log."""
    if call.uncommitted:
        return "its session has not committed"
    predicate = call._predicate
    while predicate is None and call.before is not None:
        call = call.before
        if call.done():
            return NOT_FOLLOWED
        predicate = call._predicate
    if outcome.error is not None:
        what = f"{type(outcome.error).__name__} was raised"
    elif outcome.status is not None:
        what = f"the status is {outcome.status}"
    else:
        what = "nothing was raised"
    if predicate is None:
        return f"{what}; the call runs only after a success"
    if predicate is not_ok:
        return f"{what}; the call runs only after a failure"
    return f"{what}; the call's when() function said no"


def run_held(scope: Scope) -> Exception | None:
    """Run the calls held for the response; return what the first failing one raised.

    The calls after it are discarded.
    """
    scope.note_started()
    heard = scope.options.observers
    while (call := scope.take_held()) is not None:
        invocation = call.start()
        if invocation is None:  # another thread was quicker
            scope.skip(call, "it was cancelled")
            continue
        invocation[0].run(heard.tell, heard.started, call, scope)
        try:
            value = invoke(invocation, None if call.bare else scope.options.around)
        except BaseException as error:
            if scope.forked:
                end_fork(error)
            if is_order_to_stop(error):
                scope.lose(call, reason(error))
                raise
            scope.conclude(call, RAISED, error=error)
            if not isinstance(error, Exception):
                raise
            discard_held(scope, "one before it failed")
            return error
        if scope.forked:
            end_fork()
        scope.conclude(call, RETURNED, value)
    return None


def discard_held(scope: Scope, why: str) -> None:
    """Drop the calls that were held for a response, and let it start.

    If an order to stop has ended the request, they stay, and are lost with the others.
    """
    scope.note_started()
    if scope.stopped:
        return
    while (call := scope.take_held()) is not None:
        scope.skip(call, why)


def report_lost(scope: Scope, why: str, *, running: bool = True) -> None:
    """Close the scope; every call that did not run to its end is lost.

    ``running`` is False where a call that runs may yet come to its end.
    """
    scope.shut()
    if running:
        for call in scope.under_way():
            scope.lose(call, why)
    scope.lose_rest(why)
    if running:  # and what another thread has started meanwhile
        for call in scope.under_way():
            scope.lose(call, why)
    scope.abandon_guests()
