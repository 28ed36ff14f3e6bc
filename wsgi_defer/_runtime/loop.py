"""The one event loop of this process, for deferred coroutines and for ``AsyncPool``.

It lasts, so that what belongs to a loop, as the connections of an HTTP client do, works
in the next coroutine, too.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Callable
from contextvars import Context
from typing import Any

from . import events, report
from .per_process import PerProcess
from .threads import start

END_WAIT = 1.0  # seconds at exit for what tasks do when they are cancelled


class Loop:
    """An event loop in a daemon thread, which starts when it is first used."""

    over = False  # the process exits

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def call(
        self,
        function: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> None:
        """Call it soon, in the loop, in that context; an empty one by default."""
        loop = self._loop or self._start()
        context = Context() if context is None else context
        loop.call_soon_threadsafe(function, *args, context=context)

    @property
    def is_here(self) -> bool:
        """Whether this is its thread."""
        return threading.current_thread() is self._thread

    def _start(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(
                    target=self._work, args=(loop,), name="wsgi_defer-loop", daemon=True
                )
                try:
                    start(thread)
                except BaseException:
                    loop.close()
                    raise
                self._loop, self._thread = loop, thread
                atexit.register(self.finish)
            return self._loop

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            try:
                loop.run_forever()
            except BaseException as error:  # SystemExit in a coroutine stops a loop
                report.failure(
                    events.LOOP_STOPPED, error,
                    "the loop was stopped; it keeps running", facts={},
                )  # fmt: skip

    def finish(self) -> None:
        """The process exits: end what is left in the loop, if that does not take long.

        That is tasks that coroutines have left behind, and asynchronous generators.
        """
        self.over = True
        ended = threading.Event()
        self.call(self._end, ended)
        ended.wait(2 * END_WAIT)

    def _end(self, ended: threading.Event) -> None:
        left = asyncio.all_tasks()
        ending = asyncio.get_running_loop().create_task(_end_tasks(left))
        ending.add_done_callback(lambda _: ended.set())

    def forget(self) -> None:
        """In a child process: the thread is the parent's."""
        atexit.unregister(self.finish)


async def _end_tasks(left: set[asyncio.Task[Any]]) -> None:
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=END_WAIT)
    await asyncio.wait_for(asyncio.get_running_loop().shutdown_asyncgens(), END_WAIT)


loop = PerProcess(Loop, forget=Loop.forget)


def replace(hanging: Loop) -> None:
    """Let others have a new one: code of the app's blocks that one."""
    if loop.made is hanging:
        del loop.made
