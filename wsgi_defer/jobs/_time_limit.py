"""The time limit of a job: an exception in its handler; then the end of the process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from ._watch import JobTimeUp, Watch
from .errors import JobTimeLimitError

R = TypeVar("R")

# What the engine does before this process ends because of the job that runs here. None
# in processes that must not end, such as those that serve requests.
_give_up: ContextVar[Callable[[JobTimeLimitError], None] | None] = ContextVar(
    "give_up", default=None
)


@contextmanager
def ending(give_up: Callable[[JobTimeLimitError], None] | None) -> Iterator[None]:
    """Let this process end if the job that runs in the block cannot be ended.

    ``give_up`` is called before, by another thread, to store that the attempt has
    failed. With None, this process does not end.
    """
    token = _give_up.set(give_up)
    try:
        yield
    finally:
        _give_up.reset(token)


def run_within(seconds: float | None, name: str, run: Callable[[], R]) -> R:
    """Call that. Raises ``JobTimeLimitError`` if it takes longer than so many seconds.

    Where nothing can be raised, the process ends, if it is a worker.
    """
    if seconds is None:
        return run()
    watch = Watch(seconds, JobTimeLimitError(name, seconds), _give_up.get())
    try:
        try:
            watch.start()
            return run()
        finally:
            watch.end()
    except JobTimeUp:
        watch.end()  # it may have struck just before; it strikes only once
        if not watch.has_struck:  # but one around it
            raise
        raise watch.error from None
