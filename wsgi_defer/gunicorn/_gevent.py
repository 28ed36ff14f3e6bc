"""GeventWorker: the calls run in a greenlet of their own, beside the connection."""

from __future__ import annotations

import time
from typing import Any

from gevent import pool
from gunicorn.workers import ggevent

from .. import _host
from .._transport import Job, handed_over, report_lost_jobs, run_jobs
from ._hooks import attach
from ._host import time_for_calls


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
        attach(self)
        try:
            try:
                super().run()
            finally:  # also on INT and QUIT, which raise SystemExit in here
                deadline = time.monotonic() + time_for_calls()
                while len(self._calls) and time.monotonic() < deadline:
                    _host.current.beat()
                    self._calls.join(0.1)
        finally:
            for jobs in self._unfinished:
                # One that runs may still come to its end while the process exits, and
                # if not, the master names it.
                report_lost_jobs(jobs, running=not _host.current.recorded)
