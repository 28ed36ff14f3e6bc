"""Running a coroutine from code that is not asynchronous."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from contextvars import copy_context
from typing import Any


def run_to_end(coroutine: Coroutine[Any, Any, object]) -> object:
    """Run it on an event loop of its own, here or, inside a loop, on a thread.

    Returns what it returns. Tasks that it leaves behind are cancelled, as
    ``asyncio.run()`` does. That also sets this thread's loop to None, though, which
    breaks an app that calls ``asyncio.get_event_loop()`` in its next request; so it is
    not used here.
    """
    if asyncio._get_running_loop() is None:
        return _run(coroutine)
    failure: list[BaseException] = []
    value: list[object] = []

    def run() -> None:
        try:
            value.append(_run(coroutine))
        except BaseException as error:  # raised again where somebody waits for it
            failure.append(error)

    thread = threading.Thread(target=copy_context().run, args=(run,))
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return value[0]


def _run(coroutine: Coroutine[Any, Any, object]) -> object:
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(_leaving_forks(coroutine))
    finally:
        try:
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()


async def _leaving_forks(coroutine: Coroutine[Any, Any, object]) -> object:
    """Let a process that the coroutine has forked leave the loop, too.

    There no loop is running. Since Python 3.14 its task could not end, and after
    ``sys.exit()`` the loop would wait for ever.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    try:
        return await coroutine
    finally:
        if asyncio._get_running_loop() is None:
            asyncio._set_running_loop(loop)
            if asyncio.current_task(loop) is None and task is not None:
                asyncio.tasks._enter_task(loop, task)
        del coroutine, loop, task  # frame cycle
