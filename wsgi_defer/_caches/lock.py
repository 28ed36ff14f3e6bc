"""A lock of which there is one on this machine, or one among many machines."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from .._runtime import report
from .._runtime.clock import monotonic
from .._runtime.machine_lock import MachineLock
from .store import Store

# Seconds until a lock in a cache frees itself, if its machine has died.
LEASE = 30.0


class Lock:
    """A lock that this thread has. ``kept`` tells for how many seconds its name is kept
    on this machine, 0 if it is not."""

    def __init__(
        self,
        machine: MachineLock,
        token: str = "",
        unlock: Callable[[], object] | None = None,
    ) -> None:
        self.kept = max(0.0, machine.until - monotonic())
        self._machine = machine
        self._token = token
        self._unlock = unlock

    def free(self, keep: float = 0.0) -> None:
        """Give it back; on this machine, its name is kept for ``keep`` seconds.

        An error of the store is logged: all the rest went well, and the lock frees
        itself. Meanwhile, others on this machine can take it over.
        """
        self._machine.free(keep, self._token_left())

    def put_back(self) -> None:
        """As ``free()``, and its name is kept on this machine as it was."""
        self._machine.put_back(self._token_left())

    def _token_left(self) -> str:
        """Free the lock in the store; the token, if that has failed."""
        try:
            if self._unlock is not None:
                self._unlock()
        except Exception as error:
            report.failure(error, "a lock could not be given back; it frees itself")
            return self._token
        return ""


def take_lock(
    name: str, store: Store | None, key: str, lease: float = LEASE
) -> Lock | None:
    """Take the lock of that name on this machine, and then that of the key in the
    store, if there is one. None if somebody has it. Raises what they raise.

    The lock in the store outlives a holder that is killed. So the holder notes its
    token in the machine's lock, and the next one here takes over with that.
    """
    machine = MachineLock.take(name)
    if machine is None:
        return None
    if store is None:
        return Lock(machine)
    token = machine.token or secrets.token_hex(16)
    try:
        machine.note(token)
        unlock = store.lock(key, token, lease)
    except BaseException:  # it may have the lock all the same
        machine.put_back(token)
        raise
    if unlock is None:
        machine.put_back()
        return None
    return Lock(machine, token, unlock)
