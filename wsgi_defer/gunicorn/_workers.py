"""SyncWorker and ThreadWorker: calls run when the connection is closed, or back at the
poller, so that no client waits for them.

They override only what gunicorn documents, or has kept since 20.1.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from gunicorn.workers import gthread, sync

from .._servers.handover import handed_over, report_lost_drains, run_drains
from ..background import Drain
from ._hooks import attach, finishing_calls


class SyncWorker(sync.SyncWorker):  # type: ignore[misc]
    """gunicorn's sync worker; calls run when the socket is closed.

    The same holds after an error of the app: its ``.always()`` and ``.on_failure()``
    calls run in the main thread when gunicorn's error page is out.
    """

    def run(self) -> None:
        attach(self)
        super().run()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        with handed_over() as drains:
            try:
                super().handle(listener, client, addr)
            except BaseException:  # told to stop, maybe while closing the connection
                report_lost_drains(drains)
                raise
        run_drains(drains)


class ThreadWorker(gthread.ThreadWorker):  # type: ignore[misc]
    """gunicorn's gthread worker; calls run in the request's thread when the connection
    is back at the poller, or closed. Meanwhile, the thread takes no other request."""

    def get_thread_pool(self) -> ThreadPoolExecutor:
        return DrainingThreadPool(max_workers=self.cfg.threads)

    def run(self) -> None:
        with finishing_calls(self, lambda: list(self.tpool.draining.values())):
            super().run()


class DrainingThreadPool(ThreadPoolExecutor):
    """A thread pool whose futures have their results before the deferred calls run."""

    def __init__(self, max_workers: int) -> None:
        super().__init__(max_workers)
        # gunicorn 27 shuts the pool down in its handler of QUIT, which may interrupt
        # submit() in the same thread. With a plain lock, that would hang forever.
        self._shutdown_lock = threading.RLock()  # type: ignore[assignment]
        self.draining: dict[int, list[Drain]] = {}  # by thread: what it was given

    def submit(
        self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        future: Future[Any] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            with handed_over() as drains:
                try:
                    result, failure = fn(*args, **kwargs), None
                except BaseException as error:
                    result, failure = None, error
            if drains:
                self.draining[threading.get_ident()] = list(drains)
            if failure is None:
                future.set_result(result)
            else:
                future.set_exception(failure)
            del failure
            try:
                run_drains(drains)
            finally:
                self.draining.pop(threading.get_ident(), None)

        super().submit(work)
        return future
