"""Running a coroutine from code that is not asynchronous."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Coroutine
from contextvars import copy_context
from typing import Any

from .._runtime import loop as loops
from .._runtime.forks import no_fork_leaves
from .._runtime.stop_orders import TimeUp
from .._runtime.threads import running_for

CLEAN_UP = 0.5  # seconds for a coroutine to end, after an order to stop


def run_to_end(coroutine: Coroutine[Any, Any, object]) -> object:
    """Run it on the loop of this process, and wait for it; returns what it returns.

    What it leaves behind on the loop, such as tasks, lasts until the process exits.
    Inside of that loop, which waiting would block, and where it cannot be used, the
    coroutine has a loop of its own.
    """
    loop = loops.loop()
    work = _Work(coroutine)
    try:
        if loop.is_here:
            return work.run_beside()
        if loop.over or _threads_are_greenlets():
            return work.run_here()
        return work.run_on(loop)
    finally:
        del coroutine, work  # frame cycle


def _threads_are_greenlets() -> bool:
    # All of them would see a running loop, which asyncio.run() in a view refuses.
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and monkey.is_module_patched("threading")


class _Work:
    """A coroutine, and how it ended."""

    _task: asyncio.Task[None] | None = None
    _given_up = False  # nobody waits for it any more

    def __init__(self, coroutine: Coroutine[Any, Any, object]) -> None:
        self._coroutine = coroutine
        self._end: list[tuple[object, BaseException | None]] = []
        self._ended = threading.Lock()
        self._ended.acquire()
        self._cancelled = False
        self._waiter = threading.get_ident()

    def start(self) -> None:
        """In the loop."""
        if self._given_up:
            self._coroutine.close()
            return
        running_for[self._waiter] = threading.get_ident()
        self._task = asyncio.get_running_loop().create_task(self._run())
        self._task.add_done_callback(lambda _: self._ended.release())

    async def _run(self) -> None:
        try:
            with no_fork_leaves():
                self._end.append((await self._coroutine, None))
        except BaseException as error:  # raised again where somebody waits for it
            self._end.append((None, error))

    def run_on(self, loop: loops.Loop) -> object:
        """Run it there, and wait for its end; return or raise what it did.

        If the wait is interrupted, by a time limit or an order to stop, the coroutine
        is cancelled, and has some time for its clean-up.
        """
        threads_left = True
        try:
            try:
                loop.call(self.start, context=copy_context())
            except RuntimeError:  # no thread can be started
                threads_left = False
            else:
                self._ended.acquire()
        except BaseException as order:
            loop.call(self._cancel)
            try:
                # The alarm of a time limit comes again when its grace is over.
                limited = isinstance(order, TimeUp)
                if not self._end:  # or it has ended just before
                    self._ended.acquire(timeout=-1 if limited else CLEAN_UP)
            finally:
                if not self._cancelled:  # it blocks the loop
                    loops.replace(loop)
            raise
        finally:
            self._given_up = True
            running_for.pop(self._waiter, None)
        return self._result() if threads_left else self.run_here()

    def _cancel(self) -> None:
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()

    def _result(self) -> object:
        if not self._end:  # it was cancelled before it began
            self._coroutine.close()
            raise asyncio.CancelledError
        value, error = self._end.pop()
        try:
            if error is not None:
                raise error
            return value
        finally:
            del value, error  # frame cycle

    def run_beside(self) -> object:
        """Run it in a thread with a loop of its own."""
        thread = threading.Thread(target=copy_context().run, args=(self._run_alone,))
        thread.start()
        try:
            thread.join()
        finally:
            running_for.pop(self._waiter, None)
        return self._result()

    def run_here(self) -> object:
        """Run it in this thread, on a loop of its own."""
        if asyncio._get_running_loop() is not None:
            return self.run_beside()
        self._run_alone()
        return self._result()

    def _run_alone(self) -> None:
        # Not asyncio.run(): that also sets this thread's loop to None, which breaks an
        # app that calls asyncio.get_event_loop() in its next request.
        if threading.get_ident() != self._waiter:
            running_for[self._waiter] = threading.get_ident()
        loop = asyncio.new_event_loop()
        try:
            loop.run_until_complete(self._run())
        finally:
            try:
                left = asyncio.all_tasks(loop)
                for task in left:
                    task.cancel()
                if left:
                    loop.run_until_complete(
                        asyncio.gather(*left, return_exceptions=True)
                    )
                loop.run_until_complete(loop.shutdown_asyncgens())
                loop.run_until_complete(loop.shutdown_default_executor())
            finally:
                loop.close()
