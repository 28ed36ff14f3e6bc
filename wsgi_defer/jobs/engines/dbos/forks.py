"""Closes the connections to SQLite before this process forks.

The child would share their log and their locks. The last process to close them deletes
the log that the other still writes to, and jobs with it. And a lock that another thread
held during the fork would be held in the child forever.
https://www.sqlite.org/howtocorrupt.html#_carrying_an_open_database_connection_across_a_fork_
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

LONGEST = 4.0  # seconds that a fork waits; no call takes so long


class Forks:
    """Lets forks wait for the calls that use connections, and then close these.

    ``engines`` are SQLAlchemy's, which open new connections when they are needed.
    """

    def __init__(self) -> None:
        self.engines: WeakSet[Any] = WeakSet()
        # Held from before a fork until after it, on both sides. It has an RLock, as a
        # signal handler may fork anywhere.
        self._changed = threading.Condition()
        self._forks = 0  # those that wait or happen
        self._users: list[int] = []  # threads
        self._forking: int | None = None  # the thread that forks
        os.register_at_fork(
            before=self._before,
            after_in_parent=self._after,
            after_in_child=self._after_in_child,
        )

    @contextmanager
    def using(self, patience: float) -> Iterator[None]:
        """Keep other threads from forking in the block. Raises ``TimeoutError``."""
        me = threading.get_ident()
        with self._changed:
            if me not in self._users and not self._changed.wait_for(
                lambda: not self._forks, patience
            ):
                raise TimeoutError("another thread forks, and waits for others")
            self._users.append(me)
        try:
            yield
        finally:
            with self._changed:
                self._users.remove(me)
                self._changed.notify_all()

    def _before(self) -> None:
        self._changed.acquire()
        self._forks += 1
        # A thread that forks in the middle of a call must not wait for itself.
        self._changed.wait_for(lambda: self._mine() == self._users, LONGEST)
        for engine in list(self.engines):
            engine.dispose()
        self._forking = threading.get_ident()

    def _mine(self) -> list[int]:
        return [user for user in self._users if user == threading.get_ident()]

    def _after(self) -> None:
        self._forking = None
        self._forks -= 1
        self._changed.notify_all()
        self._changed.release()

    def _after_in_child(self) -> None:
        if self._forking != threading.get_ident():
            # A fork in C, such as uWSGI's. It calls this, but not _before(), so
            # another thread may hold the lock.
            self._changed = threading.Condition()
            self._changed.acquire()
        self._forks = 1  # the threads that wanted to fork are not here
        self._users = self._mine()
        self._after()


forks = Forks()
