"""GeventWorker: calls run in their own greenlet, beside the connection."""

from __future__ import annotations

from contextvars import Context
from typing import Any

from gevent import pool
from gunicorn.workers import ggevent

from .._servers.handover import run_drains, set_slot
from ..background import Drain
from ._hooks import finishing_calls


class GeventWorker(ggevent.GeventWorker):  # type: ignore[misc]
    """gunicorn's gevent worker; the next request on the connection does not wait."""

    def init_process(self) -> None:
        self._calls = pool.Group()
        self._unfinished: list[list[Drain]] = []
        super().init_process()

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> Any:
        drains: list[Drain] = []
        set_slot(drains)
        try:
            return super().handle_request(listener_name, req, sock, addr)
        finally:
            set_slot(None)
            if drains:
                self._unfinished.append(drains)
                # A greenlet has the context of the line that starts it.
                Context().run(self._calls.spawn, self._run, drains)

    def _run(self, drains: list[Drain]) -> None:
        for _, _, ready in drains:
            ready()
        try:
            run_drains(list(drains))
        finally:
            self._unfinished.remove(drains)

    def run(self) -> None:
        with finishing_calls(self, lambda: list(self._unfinished)):
            super().run()
