"""SyncWorker and ThreadWorker: the calls run after the connection was closed, or went
back to the poller, so that no client waits for them.

They override what gunicorn documents or has kept since 20.1, and nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from gunicorn.workers import gthread, sync

from .._transport import handed_over, report_lost_jobs, run_jobs
from ..background import Job
from ._hooks import attach, finishing_calls


class SyncWorker(sync.SyncWorker):  # type: ignore[misc]
    """gunicorn's sync worker; calls run when the socket is closed.

    After an error of the app, too: its ``.always()`` and ``.on_failure()`` calls run
    when gunicorn's error page is out, in the main thread.
    """

    def run(self) -> None:
        attach(self)
        super().run()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        with handed_over() as jobs:
            try:
                super().handle(listener, client, addr)
            except BaseException:  # told to stop, maybe while it closed the connection
                report_lost_jobs(jobs)
                raise
        run_jobs(jobs)


class ThreadWorker(gthread.ThreadWorker):  # type: ignore[misc]
    """gunicorn's gthread worker; calls run in the request's thread when the connection
    is back at the poller or closed. Meanwhile the thread takes no other request."""

    def get_thread_pool(self) -> ThreadPoolExecutor:
        return DrainingThreadPool(max_workers=self.cfg.threads)

    def run(self) -> None:
        with finishing_calls(self, lambda: list(self.tpool.draining.values())):
            super().run()


class DrainingThreadPool(ThreadPoolExecutor):
    """A thread pool in which the result is there before the deferred calls run."""

    def __init__(self, max_workers: int) -> None:
        super().__init__(max_workers)
        # gunicorn 27 shuts the pool down in its handler of QUIT, which may interrupt
        # submit() in the same thread: with a plain lock, that hangs for good.
        self._shutdown_lock = threading.RLock()  # type: ignore[assignment]
        self.draining: dict[int, list[Job]] = {}  # by thread: what it was handed

    def submit(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        future: Future[Any] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            with handed_over() as jobs:
                try:
                    result, failure = fn(*args, **kwargs), None
                except BaseException as error:
                    result, failure = None, error
            if jobs:
                self.draining[threading.get_ident()] = list(jobs)
            if failure is None:
                future.set_result(result)
            else:
                future.set_exception(failure)
            del failure
            try:
                run_jobs(jobs)
            finally:
                self.draining.pop(threading.get_ident(), None)

        super().submit(work)
        return future
