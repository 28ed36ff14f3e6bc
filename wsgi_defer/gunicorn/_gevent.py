"""GeventWorker: the calls run in a greenlet of their own, beside the connection."""

from __future__ import annotations

from typing import Any

from gevent import pool
from gunicorn.workers import ggevent

from .._transport import handed_over, run_jobs
from ..background import Job
from ._hooks import finishing_calls


class GeventWorker(ggevent.GeventWorker):  # type: ignore[misc]
    """gunicorn's gevent worker; the next request on the connection does not wait."""

    def init_process(self) -> None:
        self._calls = pool.Group()
        self._unfinished: list[list[Job]] = []
        super().init_process()

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> Any:
        with handed_over() as jobs:
            try:
                return super().handle_request(listener_name, req, sock, addr)
            finally:
                if jobs:
                    self._unfinished.append(jobs)
                    self._calls.spawn(self._run, jobs)

    def _run(self, jobs: list[Job]) -> None:
        for _, _, ready in jobs:
            ready()
        try:
            run_jobs(list(jobs))
        finally:
            self._unfinished.remove(jobs)

    def run(self) -> None:
        with finishing_calls(self, lambda: list(self._unfinished)):
            super().run()
