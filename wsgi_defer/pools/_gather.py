"""Waiting for several futures, as ``gather()`` does.

No frame here keeps a future in a local variable: frame cycle.
"""

from __future__ import annotations

import queue
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from .._calls.call import DeferredCall
from .._runtime.clock import monotonic
from ..errors import PoolTimeoutError
from ._kinds import DEFAULT
from ._task import Quick, wait_for

_Late = tuple[float, str] | None  # what wait_for() returns


def collect(
    futures: list[Future[Any]], seconds: float, return_exceptions: bool
) -> list[Any]:
    """Their results, in order. Raises the first error, unless errors are results."""
    late = _wait(futures, seconds, not return_exceptions)
    places = range(len(futures))
    if return_exceptions:
        return [_outcome(futures[place], late) for place in places]
    for place in places:
        if _has_failed(futures[place]):
            futures[place].result()  # raises
    for place in places:
        if not futures[place].done():
            raise _too_late(futures[place], late)
    return [futures[place].result() for place in places]


def _wait(futures: list[Future[Any]], seconds: float, all_well: bool) -> _Late:
    """Wait until all have ended; if they are to end ``all_well``, until one has not.

    Deferred calls are run here, when the tasks have been submitted.
    """
    began = monotonic()
    for place in range(len(futures)):
        _bring_about(futures[place])
        if all_well and _has_failed(futures[place]):
            return None
    # Not concurrent.futures.wait(): it does not see that a future is cancelled until an
    # executor comes upon it. The queue is looked up in its module, where gevent may
    # have put its own after our import.
    ended: queue.SimpleQueue[int] = queue.SimpleQueue()
    for place in range(len(futures)):
        futures[place].add_done_callback(Quick(_put, ended, place))
    left = len(futures)

    def wait(seconds: float) -> bool:
        nonlocal left
        until = monotonic() + seconds
        while left:
            try:
                place = ended.get(timeout=max(until - monotonic(), 0))
            except queue.Empty:
                return False
            left -= 1
            if all_well and _has_failed(futures[place]):
                return True
        return True

    return wait_for(wait, seconds, began)


def _put(ended: queue.SimpleQueue[int], place: int, _: Future[Any]) -> None:
    ended.put(place)


def _bring_about(future: Future[Any]) -> None:
    """Run a deferred call early, as its ``result()`` does."""
    try:
        if isinstance(future, DeferredCall):
            future.exception(0)
    except (CancelledError, FutureTimeout):  # it never runs, or another thread runs it
        pass
    finally:
        del future


def _has_failed(future: Future[Any]) -> bool:
    return future.done() and (future.cancelled() or future.exception() is not None)


def _outcome(future: Future[Any], late: _Late) -> Any:
    # Nothing is caught here: an order to stop, which may come at any line, is no
    # outcome.
    if not future.done():
        future.cancel()
        return _too_late(future, late)
    if future.cancelled():
        return CancelledError()
    error = future.exception()
    return future.result() if error is None else error


def _too_late(future: Any, late: _Late) -> PoolTimeoutError:
    assert late is not None  # else all have ended
    name = getattr(future, "pool", DEFAULT)
    return PoolTimeoutError(name, getattr(future, "label", "a future"), *late)
