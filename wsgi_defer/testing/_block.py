"""What the blocks of this package have in common."""

from __future__ import annotations

import threading
import time
from weakref import ref

from .. import background
from .._calls import switch
from .._calls.scope import Scope, get_current
from .._calls.switch import Mode

WAIT = 30.0  # seconds for other threads to come to an end
PAUSE = 0.01  # seconds between two looks at them

_blocks: list[Mode] = []  # the innermost one last


def enter_block(mode: Mode) -> None:
    """From now on, it decides. What others have left on the background thread ends
    first, so that it does not end in here."""
    background.join(WAIT)
    _blocks.append(mode)
    switch.set_mode(mode)


def leave_block(mode: Mode) -> None:
    """It decides no more. Fixtures may leave their blocks in any order."""
    _blocks.remove(mode)
    switch.set_mode(_blocks[-1] if _blocks else None)


def is_current(scope: Scope) -> bool:
    """Whether this is inside of its request."""
    current = get_current()
    while current is not None and current is not scope:
        current = current.outer
    return current is scope


class Opened:
    """The requests that registered something during a block, and on which thread.

    Held by weak references: otherwise nobody would notice that a response is dropped.
    """

    def __init__(self) -> None:
        self._all: dict[int, tuple[ref[Scope], int]] = {}

    def note(self, scope: Scope) -> None:
        """The scope has registered a call on this thread."""
        known = self._all.get(id(scope))
        if known is None or known[0]() is not scope:
            self._all.pop(id(scope), None)  # of one that is gone: this comes last
            self._all[id(scope)] = ref(scope), threading.get_ident()

    def unclosed(self) -> list[Scope]:
        """Those of them whose responses nobody has closed, oldest first."""
        scopes = [scope() for scope, _ in self._all.copy().values()]
        return [each for each in scopes if each is not None and _is_unclosed(each)]

    def wait(self) -> None:
        """Wait for the servers of other threads, and for the background thread."""
        for _ in range(int(WAIT / PAUSE)):  # by no clock, which a test may have stopped
            if not self._served_elsewhere():
                break
            time.sleep(PAUSE)
        background.join(WAIT)

    def _served_elsewhere(self) -> bool:
        others = {thread.ident for thread in threading.enumerate()}
        others.discard(threading.get_ident())
        return any(
            thread in others and (found := scope()) is not None and _is_unclosed(found)
            for scope, thread in self._all.copy().values()
        )


def _is_unclosed(scope: Scope) -> bool:
    # Between two steps of a stream, its scope may be current in the test itself.
    in_view = is_current(scope) and not scope.started
    return scope.answers and not scope.closed and not in_view
