"""SyncWorker and ThreadWorker: calls run when the connection is closed, or back at the
poller, so that no client waits for them.

They override only what gunicorn documents, or has kept since 20.1.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from gunicorn.workers import gthread, sync

from .._servers.handover import report_lost_drains, run_drains, set_slot
from ..background import Drain
from ._hooks import attach, finishing_calls

LONGEST_SUBMIT = 1.0  # seconds, from the start of the work to the return of submit()


class SyncWorker(sync.SyncWorker):  # type: ignore[misc]
    """gunicorn's sync worker; calls run when the socket is closed.

    The same holds after an error of the app: its ``.always()`` and ``.on_failure()``
    calls run in the main thread when gunicorn's error page is out.
    """

    def run(self) -> None:
        attach(self)
        super().run()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        drains: list[Drain] = []
        set_slot(drains)
        try:
            super().handle(listener, client, addr)
        except BaseException:  # told to stop, maybe while closing the connection
            report_lost_drains(drains)
            raise
        finally:
            set_slot(None)
        if drains:
            run_drains(drains)


class ThreadWorker(gthread.ThreadWorker):  # type: ignore[misc]
    """gunicorn's gthread worker; calls run in the request's thread when the connection
    is back at the poller, or closed. Meanwhile, the thread takes no other request."""

    def get_thread_pool(self) -> ThreadPoolExecutor:
        return DrainingThreadPool(max_workers=self.cfg.threads)

    def run(self) -> None:
        with finishing_calls(self, lambda: list(self.tpool.draining.values())):
            super().run()


class ServedFuture(Future[Any]):
    """A future that goes on when it has told of its result."""

    then: Callable[[], object]

    def set_result(self, result: Any) -> None:
        Future.set_result(self, result)
        self.then()

    def set_exception(self, exception: BaseException | None) -> None:
        Future.set_exception(self, exception)
        self.then()


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
        future: Future[Any] | None = None
        box: list[Future[Any] | None] = []
        try:
            future = super().submit(self._serve, box, fn, *args, **kwargs)
            return future
        finally:  # whatever a handler of a signal raises: _serve() may wait for it
            box.append(future)

    def _serve(
        self,
        box: list[Future[Any] | None],
        fn: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        drains: list[Drain] = []
        set_slot(drains)
        try:
            return fn(*args, **kwargs)
        finally:
            set_slot(None)
            if drains:
                self._drain_after(box, drains)

    def _drain_after(self, box: list[Future[Any] | None], drains: list[Drain]) -> None:
        """Run them when the future of this thread's work has told of its result.

        gunicorn's callback, which gives the connection back, has run by then, or runs
        in gunicorn's own thread as soon as that adds it.
        """
        self.draining[threading.get_ident()] = list(drains)
        if not box:
            _wait_for_submit(box)
        future = box[0] if box else None
        if future is None:  # submit() was interrupted, and nobody waits for the future
            self._drain(drains)
        else:
            future.__class__ = ServedFuture
            future.then = partial(self._drain, drains)  # type: ignore[attr-defined]

    def _drain(self, drains: list[Drain]) -> None:
        try:
            run_drains(drains)
        finally:
            self.draining.pop(threading.get_ident(), None)


def _wait_for_submit(box: list[Future[Any] | None]) -> None:
    deadline = time.monotonic() + LONGEST_SUBMIT
    while not box and time.monotonic() < deadline:
        time.sleep(0.0001)
