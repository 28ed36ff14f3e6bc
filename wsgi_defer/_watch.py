"""The thread that looks at calls which take long, one per process.

It is started by the first call that has a time limit, or a time after which it is
slow. It logs the stack of a slow call, once, as the slow log of PHP-FPM does; says so
when a call runs past its limit; and keeps the heart of the worker beating while a call
on its main thread is within its limit.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from time import monotonic
from types import FrameType
from typing import Any

from . import _host
from ._call import Call
from ._per_process import PerProcess
from ._scope import Scope

INTERVAL = 0.1  # seconds between two looks
GRACE = 0.3  # seconds past the limit, for a call that is just being ended
LINGER = 20  # looks at nothing, before it waits for the next call


class Watched:
    """A call that runs, and where."""

    def __init__(self, call: Call, scope: Scope, limit: float | None) -> None:
        self.call = call
        self.scope = scope
        self.limit = limit
        self.slow_after = scope.options.slow_after
        self.began = monotonic()
        self.thread = threading.get_ident()
        # That of _limit.run(), until the call has ended.
        self.frame: FrameType | None = sys._getframe(2)
        # The stack of a greenlet that waits is not its thread's.
        greenlet = sys.modules.get("greenlet")
        self.greenlet: Any = None if greenlet is None else greenlet.getcurrent()

    def stack(self) -> str:
        """Where the call is just now, without the server's frames and ours."""
        frame = getattr(self.greenlet, "gr_frame", None)
        if frame is None:
            frame = sys._current_frames().get(self.thread)
        frames = []
        while frame is not None and frame is not self.frame:
            frames.append((frame, frame.f_lineno))
            frame = frame.f_back
        while frames and frames[-1][0].f_globals.get("__package__") == __package__:
            frames.pop()
        return "".join(traceback.StackSummary.extract(reversed(frames)).format())


class _Watch:
    _thread: threading.Thread | None = None

    def __init__(self) -> None:
        self._calls: dict[int, Watched] = {}
        self._wanted = threading.Event()

    def begin(self, watched: Watched) -> None:
        self._calls[id(watched)] = watched
        if not self._wanted.is_set():
            self._wanted.set()
            if self._thread is None:
                self._start()

    def _start(self) -> None:
        thread = threading.Thread(
            target=self._work, name="wsgi_defer-watch", daemon=True
        )
        # setdefault: two threads may both be the first, and two watches would tell of
        # one slow call twice.
        if self.__dict__.setdefault("_thread", thread) is not thread:
            return
        try:
            thread.start()
        except RuntimeError:  # too many threads, or the interpreter is shutting down
            del self.__dict__["_thread"]
            self._wanted.clear()

    def end(self, watched: Watched) -> None:
        self._calls.pop(id(watched), None)

    def _work(self) -> None:
        idle = 0
        while True:
            idle = 0 if self._calls else idle + 1
            if idle > LINGER:
                self._wanted.clear()
                if not self._calls:  # not one that came just before
                    self._wanted.wait()
            time.sleep(INTERVAL)
            for watched in list(self._calls.values()):
                self._look(watched)
                del watched  # not for as long as this thread waits

    def _look(self, watched: Watched) -> None:
        elapsed = monotonic() - watched.began
        heard = watched.scope.options.observers
        limit, slow_after = watched.limit, watched.slow_after
        if limit is not None:
            if elapsed < limit:
                _host.current.beat(watched.thread)
            elif elapsed > limit + GRACE:
                watched.limit = None
                self._tell(heard.overran, watched, elapsed)
        if slow_after is not None and elapsed >= slow_after:
            watched.slow_after = None
            self._tell(heard.slow, watched, elapsed)

    def _tell(self, listeners: Any, watched: Watched, elapsed: float) -> None:
        stack = watched.stack()
        if id(watched) in self._calls:  # else it has ended meanwhile
            call, scope = watched.call, watched.scope
            scope.options.observers.tell(listeners, call, scope, elapsed, stack)


_watch = PerProcess(_Watch)


def begin(call: Call, scope: Scope, limit: float | None) -> Watched:
    """Watch a call that begins now, in this thread."""
    watched = Watched(call, scope, limit)
    _watch().begin(watched)
    return watched


def end(watched: Watched) -> None:
    """The call has ended."""
    watched.frame = None  # which holds this object
    if _watch.made is not None:
        _watch.made.end(watched)
