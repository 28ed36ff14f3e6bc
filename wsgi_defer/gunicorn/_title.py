"""The title of a worker's process, which ``ps`` and ``top`` show, names its call.

Only where setproctitle is installed, as gunicorn sets its own titles only then:
``gunicorn: worker [shop] after response: shop.send_mail``.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

from .._runtime.report import printable
from ..observers._observer import Call, Observer, Scope
from ..observers._observers import observe_process, stop_observing

LONGEST = 100  # characters of a call's name


class Title(Observer):
    """Adds the call that was the last to start, of those that run after a response.

    When none runs any more, the title is ``own`` again. Safe from any thread.

    :param own: the title of the process. It is not read anew for each call, as that
        takes as long as setting it: about 0.5 microseconds.
    """

    def __init__(self, own: str, write: Callable[[str], object]) -> None:
        self._own = own
        self._with_call = f"{own} after response: "
        self._write = write
        self._lock = threading.RLock()
        self._shown: dict[int, str] = {}  # titles, in the order of the calls' starts

    def started(self, call: Call, scope: Scope) -> None:
        outermost = scope
        while outermost.outer is not None:  # a block of deferring(), in a view perhaps
            outermost = outermost.outer
        if outermost.outcome is None:
            return  # the response has not ended
        name = call.label
        if not name.isprintable():
            name = printable(name)
        if len(name) > LONGEST:
            name = f"{name[: LONGEST - 3]}..."
        title = self._with_call + name
        with self._lock:
            self._shown[id(call)] = title
            self._write(title)

    def finished(self, call: Call, scope: Scope) -> None:
        with self._lock:
            shown = self._shown
            if shown.pop(id(call), None) is not None:
                self._write(next(reversed(shown.values())) if shown else self._own)

    def failed(self, call: Call, scope: Scope, error: BaseException) -> None:
        self.finished(call, scope)

    def lost(self, call: Call, scope: Scope, why: str) -> None:
        self.finished(call, scope)


_titles: list[Title] = []  # one at most, in a worker


def show_calls() -> None:
    """From now on, in this process, if gunicorn has found setproctitle."""
    module = sys.modules.get("setproctitle")
    # On macOS, gunicorn leaves it alone, as it may crash a process that was forked.
    if module is None or sys.platform == "darwin" or _titles:
        return
    _titles.append(Title(module.getproctitle(), module.setproctitle))
    observe_process(_titles[0])


def show_no_calls() -> None:
    """In a child of a worker: its title is its own."""
    while _titles:
        stop_observing(_titles.pop())
