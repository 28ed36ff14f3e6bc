"""One object for each process, made when it is first needed."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerProcess(Generic[T]):
    """Call it to get the object that ``make()`` returned in this process.

    The object is made late, so that its locks are gevent's if gevent has patched them.
    A child process makes its own, because threads do not survive a fork, and locks may
    be held. There, ``forget`` is called with the parent's object.
    """

    made: T | None = None

    def __init__(
        self, make: Callable[[], T], forget: Callable[[T], object] | None = None
    ) -> None:
        self._make = make
        self._forget = forget
        os.register_at_fork(after_in_child=self._start_anew)

    def __call__(self) -> T:
        # setdefault, because two threads may both be first.
        return self.made or self.__dict__.setdefault("made", self._make())

    def _start_anew(self) -> None:
        made = self.__dict__.pop("made", None)
        if made is not None and self._forget is not None:
            self._forget(made)
