"""No connection to SQLite is open while this process forks.

The child would share its log and its locks: whoever is the last to close them deletes
the log that the other still writes to, and its jobs with it; and a lock that another
thread held during the fork is held in the child for ever.
https://www.sqlite.org/howtocorrupt.html#_carrying_an_open_database_connection_across_a_fork_
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

LONGEST = 4.0  # seconds that a fork waits; no call takes as long


class Forks:
    """Calls that use connections, and forks, which wait for them and close those.

    ``engines`` are SQLAlchemy's, which open others when they are needed.
    """

    def __init__(self) -> None:
        self.engines: WeakSet[Any] = WeakSet()
        # Held from before a fork until after it, on both sides. With an RLock in it,
        # since a signal handler may fork anywhere.
        self._changed = threading.Condition()
        self._forks = 0  # that wait, or happen
        self._users: list[int] = []  # threads
        self._forking: int | None = None  # the thread that does
        os.register_at_fork(
            before=self._before,
            after_in_parent=self._after,
            after_in_child=self._after_in_child,
        )

    @contextmanager
    def using(self, patience: float) -> Iterator[None]:
        """Let no other thread fork in the block. Raises ``TimeoutError``."""
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
        # A thread that forks in the middle of a call is not to wait for itself.
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
            # A fork in C, as uWSGI's, which calls what follows it, but not _before():
            # others may hold the lock.
            self._changed = threading.Condition()
            self._changed.acquire()
        self._forks = 1  # others that wanted to fork are not here
        self._users = self._mine()
        self._after()


forks = Forks()
