"""The thread that looks at calls which take long, one per process.

The first call with a time limit, or with a time after which it is slow, starts it. It
logs the stack of a slow call, once, as the slow log of PHP-FPM does. It reports a call
that runs past its limit. And it keeps the heart of the worker beating while a call on
the main thread is within its limit.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from types import FrameType
from typing import Any

from .._runtime import host
from .._runtime.clock import monotonic
from .._runtime.per_process import PerProcess
from .._runtime.threads import frame_of, start
from .call import Call
from .options import Owner

INTERVAL = 0.1  # seconds between two looks
GRACE = 0.3  # seconds past the limit, for a call that is just being ended
PACKAGE = __name__.partition(".")[0]
LINGER = 20  # looks with nothing to see, before it waits for the next call


class Watched:
    """A call that runs, and where it runs."""

    def __init__(self, call: Call, owner: Owner, limit: float | None) -> None:
        self.call = call
        self.owner = owner
        self.limit = limit
        self.slow_after = owner.options.slow_after
        self.started_at = monotonic()
        self.thread = threading.get_ident()
        # That of run_watched(), until the call has ended.
        self.frame: FrameType | None = sys._getframe(2)
        # A greenlet that waits has a stack of its own.
        greenlet = sys.modules.get("greenlet")
        self.greenlet: Any = None if greenlet is None else greenlet.getcurrent()

    def stack(self) -> str:
        """Where the call is now, without the frames of the server and of ours."""
        frame = getattr(self.greenlet, "gr_frame", None)
        if frame is None:
            frame = frame_of(self.thread)
        frames = []
        while frame is not None and frame is not self.frame:
            frames.append((frame, frame.f_lineno))
            frame = frame.f_back
        frames.reverse()
        return "".join(traceback.StackSummary.extract(frames[_ours(frames) :]).format())


def _ours(frames: list[tuple[FrameType, int]]) -> int:
    """How many of these frames, the outermost first, lead to the app's function.

    They are ours, up to the last one before the app's. Those of asyncio, gevent, or
    the start of a thread may stand between them, but not after: the app may have called
    these itself.
    """
    ours = 0
    for number, (frame, _) in enumerate(frames, 1):
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        if package == PACKAGE:
            ours = number
        elif package not in ("asyncio", "gevent", "threading"):
            break
    return ours


class Watch:
    """The calls that are watched, and the thread that looks at them."""

    _thread: threading.Thread | None = None

    def __init__(self) -> None:
        self._calls: dict[int, Watched] = {}
        self._wanted = threading.Event()

    def add(self, watched: Watched) -> None:
        """Look at it from now on."""
        self._calls[id(watched)] = watched
        if not self._wanted.is_set():
            self._wanted.set()
            if self._thread is None:
                self._start()

    def _start(self) -> None:
        thread = threading.Thread(
            target=self._work, name="wsgi_defer-watch", daemon=True
        )
        # setdefault: two threads may both be the first, and two watches would report
        # one slow call twice.
        if self.__dict__.setdefault("_thread", thread) is not thread:
            return
        try:
            start(thread)
        except RuntimeError:  # too many threads, or the interpreter is shutting down
            del self.__dict__["_thread"]
            self._wanted.clear()

    def remove(self, watched: Watched) -> None:
        """The call has ended."""
        self._calls.pop(id(watched), None)

    def _work(self) -> None:
        idle = 0
        while True:
            idle = 0 if self._calls else idle + 1
            if idle > LINGER:
                self._wanted.clear()
                if not self._calls:  # none came just before that
                    self._wanted.wait()
            time.sleep(INTERVAL)
            for watched in list(self._calls.values()):
                self._look(watched)
                del watched  # or it would live for as long as this thread waits

    def _look(self, watched: Watched) -> None:
        elapsed = monotonic() - watched.started_at
        heard = watched.owner.options.observers
        limit, slow_after = watched.limit, watched.slow_after
        if limit is not None:
            if elapsed < limit:
                host.current.beat(watched.thread)
            elif elapsed > limit + GRACE:
                watched.limit = None
                self._report(heard.overran, watched, elapsed)
        if slow_after is not None and elapsed >= slow_after:
            watched.slow_after = None
            self._report(heard.slow, watched, elapsed)

    def _report(self, listeners: Any, watched: Watched, elapsed: float) -> None:
        stack = watched.stack()
        if id(watched) in self._calls:  # it has not ended meanwhile
            call, owner = watched.call, watched.owner
            call.own_context().run(
                owner.options.observers.tell, listeners, call, owner, elapsed, stack
            )


watch = PerProcess(Watch)


def start_watching(call: Call, owner: Owner, limit: float | None) -> Watched:
    """Watch a call that starts now, in this thread."""
    watched = Watched(call, owner, limit)
    watch().add(watched)
    return watched


def stop_watching(watched: Watched) -> None:
    """The call has ended."""
    watched.frame = None  # it holds this object
    if watch.made is not None:
        watch.made.remove(watched)
