"""What tests of time limits have in common."""

from __future__ import annotations

import contextlib
import signal
import time

from wsgi_defer import Observer
from wsgi_defer._calls import limit, watch


class Failures(Observer):
    """What calls failed with, and which were slow or ran over."""

    def __init__(self):
        self.errors, self.slow_ones, self.over = [], [], []

    def failed(self, call, scope, error):
        self.errors.append(error)

    def slow(self, call, scope, seconds, stack):
        self.slow_ones.append((call.label, seconds, stack))

    def overran(self, call, scope, seconds, stack):
        self.over.append((call.label, seconds, stack))


class Clock:
    """The clock of time limits and of the watch, in which time can pass at once."""

    def __init__(self, monkeypatch):
        self._ahead = 0
        for module in (limit, watch):
            monkeypatch.setattr(module, "monotonic", self)

    def __call__(self):
        return time.monotonic() + self._ahead

    def skip(self, seconds):
        """Let so many pass. An alarm that is set rings soon, and looks if it is due."""
        self._ahead += seconds
        if signal.getitimer(signal.ITIMER_REAL)[0]:
            signal.setitimer(signal.ITIMER_REAL, 0.01, limit.AGAIN)


def sleep_on(seconds=20, enough=bool):
    """Code that catches every Exception, and goes on."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not enough():
        with contextlib.suppress(Exception):
            time.sleep(0.005)
