"""Running one call: its start, its time limit, and how its end is told."""

from __future__ import annotations

from .._runtime import host
from .._runtime.forks import end_fork
from .._runtime.stop_orders import TimeUp, is_order_to_stop
from .call import DeferredCall
from .future import RAISED, RETURNED
from .invoke import invoke
from .limit import run_watched
from .options import Owner


def run_now(call: DeferredCall, owner: Owner) -> None:
    """Run the call in this thread, unless it was cancelled or lost meanwhile.

    What it raises is its failure. Only an order to stop goes up.
    """
    invocation = call.start()
    if invocation is None:
        owner.skip(call, "it was cancelled")
        return
    options = owner.options
    heard = options.observers
    try:
        if heard.started:
            invocation[0].run(heard.tell, heard.started, call, owner)
        limit = call.limit
        if limit is None:
            if options.limit_in is not None:
                limit = options.limit_in(invocation[0])
            if limit is None:
                limit = options.time_limit
        if limit is None and options.slow_after is None:
            value = invoke(invocation, options.around)
        else:
            value = run_watched(invocation, call, owner, limit)
    except BaseException as error:
        if owner.forked:
            end_fork(error)
        if is_order_to_stop(error):
            owner.lose(call, reason(error))
            raise
        owner.conclude(call, RAISED, error=error)
    else:
        if owner.forked:
            end_fork()
        owner.conclude(call, RETURNED, value)
    del call, invocation  # frame cycle


def reason(order: BaseException) -> str:
    """Why the calls are lost that this exception has cut off, for the log."""
    if isinstance(order, TimeUp):
        return "the call that waits for it was ended at its time limit"
    if is_order_to_stop(order):
        return host.current.why
    return f"wsgi_defer failed with {type(order).__name__}"
