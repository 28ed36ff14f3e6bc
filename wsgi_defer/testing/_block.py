"""What the blocks of this package have in common."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from uuid import uuid4
from weakref import WeakKeyDictionary

from .. import background
from .._calls import once, switch
from .._calls.scope import Scope, get_current
from .._calls.switch import Mode
from .._runtime.clock import monotonic

WAIT = 30.0  # seconds for other threads to come to an end
PAUSE = 0.01  # seconds between two looks at them

_blocks: list[Mode] = []  # the innermost one last


def enter_block(mode: Mode) -> None:
    """From now on, it decides. What others have left on the background thread ends
    first, so that it does not end in here."""
    background.join(WAIT)
    _blocks.append(mode)
    mode.apart = f"test {uuid4().hex} "
    _let_decide(mode)


def leave_block(mode: Mode) -> None:
    """It decides no more. Fixtures may leave their blocks in any order."""
    _blocks.remove(mode)
    _let_decide(_blocks[-1] if _blocks else None)


def _let_decide(mode: Mode | None) -> None:
    switch.set_mode(mode)
    once.apart = "" if mode is None else mode.apart  # no block sees another's names


def _leave_all() -> None:
    # In a child process, such as a server that a test forks: nobody would see its list.
    _blocks.clear()
    _let_decide(None)


os.register_at_fork(after_in_child=_leave_all)


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
        self._threads: WeakKeyDictionary[Scope, int] = WeakKeyDictionary()

    def note(self, scope: Scope) -> None:
        """The scope has registered a call on this thread."""
        self._threads.setdefault(scope, threading.get_ident())

    def unclosed(self) -> list[Scope]:
        """Those of them whose responses nobody has closed, oldest first."""
        scopes = [scope() for scope in self._threads.keyrefs()]
        return [each for each in scopes if each is not None and _is_unclosed(each)]

    def wait_for_answers(self) -> None:
        """Until the apps that other threads serve have started their responses."""
        self._wait(lambda scope: not scope.started)

    def wait_for_ends(self) -> None:
        """Until other threads have closed their responses, and the background thread
        has nothing to do."""
        self._wait(lambda scope: True)
        background.join(WAIT)

    def _wait(self, is_awaited: Callable[[Scope], bool]) -> None:
        until = monotonic() + WAIT
        while any(map(is_awaited, self._elsewhere())) and monotonic() < until:
            time.sleep(PAUSE)

    def _elsewhere(self) -> list[Scope]:
        """Those that other threads, which still live, have not closed."""
        others = {thread.ident for thread in threading.enumerate()}
        others.discard(threading.get_ident())
        return [each for each in self.unclosed() if self._threads[each] in others]


def _is_unclosed(scope: Scope) -> bool:
    # Between two steps of a stream, its scope may be current in the test itself.
    in_view = is_current(scope) and not scope.started
    return scope.answers and not scope.closed and not in_view
