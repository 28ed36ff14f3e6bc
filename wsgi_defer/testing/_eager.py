"""``eager()``: each call runs inside ``defer()``."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager

from .._calls.call import DeferredCall
from .._calls.scope import Scope
from .._calls.switch import Mode
from ._block import enter_block, is_current, leave_block


@contextmanager
def eager() -> Iterator[None]:
    """Inside the block, each call runs inside ``defer()``, which raises its error.

    The call has run when ``defer()`` returns. So the status of the response, a name and
    other options do not matter, and nothing is left to ``catch()``; ``then()`` and its
    kind run their functions at once, too. Calls that were deferred before the block run
    when they would have run. For all threads of the process.
    """
    mode = _Eager()
    enter_block(mode)
    try:
        yield
    finally:
        leave_block(mode)


class _Eager(Mode):
    def registered(self, call: DeferredCall, scope: Scope) -> None:
        if not is_current(scope):  # a handle that was taken out of its request
            return
        try:
            error = call.exception()
        except CancelledError:  # the call that it follows did not run
            return
        if error is not None:
            raise error
