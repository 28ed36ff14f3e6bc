"""What each process has one of, made when it is first needed."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerProcess(Generic[T]):
    """Call it for the object that ``make()`` returned in this process.

    Made late, so that its locks are gevent's own if that has replaced the locks. A
    child process makes its own, since threads do not come along, and locks may be held;
    ``forget`` is called there with the parent's.
    """

    made: T | None = None

    def __init__(
        self, make: Callable[[], T], forget: Callable[[T], object] | None = None
    ) -> None:
        self._make = make
        self._forget = forget
        os.register_at_fork(after_in_child=self._start_anew)

    def __call__(self) -> T:
        # setdefault: two threads may both be the first.
        return self.made or self.__dict__.setdefault("made", self._make())

    def _start_anew(self) -> None:
        made = self.__dict__.pop("made", None)
        if made is not None and self._forget is not None:
            self._forget(made)
