"""Jobs in SQLite, without a server, or in Postgres: DBOS keeps and runs them.

Each attempt of a job is a DBOS workflow of its own, ``queue:job:place``. When one has
failed, the next is enqueued, with a delay, under the id that follows: so waiting takes
no worker, as DBOS's retries of steps would, and a worker that is killed after it has
enqueued it does not do so again.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa
from dbos import DBOS, DBOSClient, EnqueueOptions

from ._attempts import FIRST, NEXT, Attempt, Attempts, Serial
from ._dbos_json import Json
from ._dbos_worker import POOL, QUIET, Worker
from ._forks import forks
from ._job import Job, Order
from ._postgres import Impatient
from ._slots import MOST, FileSlots, PostgresSlots, Slots
from ._sqlite import check_file, check_sqlite, make_ready
from .errors import JobNotFailedError, JobsUnavailable, UnknownJobError

if TYPE_CHECKING:
    from ._jobs import Jobs

T = TypeVar("T")

PATIENCE = 1.8  # seconds that a call waits for the database's lock, or a connection
# Milliseconds, again and again. SQLite itself sleeps up to 100 ms before it looks
# again, and others come first. With 4 busy web processes and 2 workers, the slowest of
# 2000 requests took 0.3 to 0.6 s so, and 1.1 to 1.9 s otherwise, where one failed.
LOCK_WAIT = 30
CLEARING = MOST  # a slot that no worker takes


class Dbos:
    """The client, and the way to the worker."""

    own_processes = False
    holds = True
    delays = True

    def __init__(self, url: str, jobs: Jobs) -> None:
        self.jobs = jobs
        self.queue = jobs.queue
        self.owner = owner(jobs.queue)
        self.serial = Serial(jobs.queue)
        self.url = database(url)
        self.path = self.url.database if is_sqlite(self.url) else None
        self.title = "DBOS on SQLite" if self.path else "DBOS on Postgres"
        self._opening = threading.Lock()
        self._opened: tuple[DBOSClient, Attempts] | None = None

    @staticmethod
    def check(url: str) -> str:
        """Refuse what cannot work. Raises ``ValueError``; opens nothing.

        Returns the URL, with the real path: a daemon changes its directory.
        """
        found = database(url)
        if not is_sqlite(found):
            return url
        check_sqlite()
        check_file(found.database or "")
        return found.render_as_string()

    def enqueue(self, order: Order) -> None:
        attempt = Attempt(1, order.name, order.handler.waits, None, order.payload)
        self.put(order.id, 1, attempt, order.delay)

    def put(self, job_id: str, place: int, attempt: Attempt, delay: float) -> None:
        """Store an attempt; one that is known stays as it is."""
        options: EnqueueOptions = {
            "workflow_name": FIRST if place == 1 else NEXT,
            "workflow_id": self.serial.id(job_id, place),
            "queue_name": self.queue,
            # Not the application's: DBOS recovers only jobs of the same version.
            "app_version": self.owner,
        }
        if delay:
            options["delay_seconds"] = delay
        self._ask("storing a job", lambda dbos, _: dbos.enqueue(options, *attempt.args))

    def status(self, job_id: str) -> Job | None:
        found = self._ask("looking for a job", lambda _, rows: rows.jobs([job_id]))
        return found[0] if found else None

    def failed(self, limit: int) -> list[Job]:
        return self._ask("listing failed jobs", lambda _, rows: rows.failed(limit))

    def recent(self, limit: int) -> list[Job]:
        return self._ask("listing jobs", lambda _, rows: rows.recent(limit))

    def retry(self, job_id: str) -> None:
        last = self._ask("looking for a job", lambda _, rows: rows.last(job_id))
        if last is None:
            raise UnknownJobError(job_id)
        place, state, attempt = last
        if state != "failed":
            raise JobNotFailedError(job_id, state)
        # Two retries that find it failed find the same place, whenever they come here.
        self.put(job_id, place + 1, attempt.again(), 0)

    def clear(self, before: float) -> int:
        doing = "clearing done jobs"
        with self.reaching(doing):
            slots = self.slots()
            try:
                # Of two, one could delete a new job, whose id the other has set free.
                if not slots.take(CLEARING):
                    return 0
                cleared = 0
                after: str | None = ""
                while after is not None:
                    # A few at a time: meanwhile, SQLite lets nobody else write.
                    count, after = self._ask(doing, partial(clear, before, after))
                    cleared += count
                return cleared
            finally:
                slots.close()

    def follows(self, job_id: str, place: int) -> bool:
        """Whether an attempt is already followed by another."""
        following = self.serial.id(job_id, place + 1)
        return self._ask("looking for a job", lambda _, rows: rows.exists(following))

    def busy_slots(self) -> set[str]:
        """The executor ids of workers that run jobs, or died while they did."""
        return self._ask("looking for dead workers", lambda _, rows: rows.slots())

    def running(self, slot: str) -> set[str]:
        """The ids of workflows that, as the database has it, run under that id."""
        return self._ask("looking for lost jobs", lambda _, rows: rows.running(slot))

    def register_queue(self, polling: float) -> None:
        """Let DBOS know the queue: of each worker, one job at a time."""
        self._ask(
            "registering the queue",
            lambda dbos, _: dbos.register_queue(
                self.queue, worker_concurrency=1, polling_interval_sec=polling
            ),
        )

    def _ask(self, doing: str, call: Callable[[DBOSClient, Attempts], T]) -> T:
        end = time.monotonic() + PATIENCE
        with self.reaching(doing), self._using():
            while True:
                try:
                    return call(*self._open())
                except Busy:
                    if time.monotonic() >= end:
                        raise

    def _using(self) -> AbstractContextManager[None]:
        return nullcontext() if self.path is None else forks.using(PATIENCE)

    def slots(self) -> Slots:
        """The locks of the workers of this queue."""
        with self.reaching("locking a worker's slot"):
            if self.path is not None:
                return FileSlots(f"{self.path}.{self.queue}.slot")
            return PostgresSlots(connect(self.url), self.queue)

    def work(self, slot: int, processes: int) -> None:
        Worker(self, slot).run()

    def close(self) -> None:
        if self._opened is not None:
            client, attempts = self._opened
            self._opened = None
            client.destroy()
            attempts.engine.dispose()

    def _open(self) -> tuple[DBOSClient, Attempts]:
        if self._opened is not None:
            return self._opened
        begun = time.monotonic()
        got = self._opening.acquire(timeout=PATIENCE)
        try:
            if self._opened is None:
                if not got or time.monotonic() - begun > PATIENCE / 2:
                    raise TimeoutError("another thread waits for it, too")
                self._opened = self._made()
            return self._opened
        finally:
            if got:
                self._opening.release()

    def _made(self) -> tuple[DBOSClient, Attempts]:
        if self.path is not None:
            make_ready(self.path, PATIENCE)
        engine = connect(self.url)
        try:
            with engine.connect():  # DBOS would wait longer for it
                pass
            # Whoever is first creates the tables; DBOS lets the others wait.
            DBOS.migrate(self.url.render_as_string(hide_password=False))
            client = DBOSClient(
                system_database_engine=engine,
                serializer=Json(),
                application_name=self.owner,
                lazy=True,
                retry_connection_errors=False,
            )
        except BaseException:
            engine.dispose()
            raise
        return client, Attempts(engine, self.serial, self.owner)

    @contextmanager
    def reaching(self, doing: str) -> Iterator[None]:
        """Raise ``JobsUnavailable`` for what the database raises."""
        try:
            yield
        except (sa.exc.SQLAlchemyError, sqlite3.Error, Busy, OSError) as e:
            raise JobsUnavailable(self.title, doing) from e


def clear(
    before: float, after: str, dbos: DBOSClient, rows: Attempts
) -> tuple[int, str | None]:
    """Forget some done jobs; return how many, and where to go on, as ``done()``."""
    of_jobs, end = rows.done(before, after)
    if of_jobs:
        dbos.delete_workflows([id_ for ids in of_jobs for id_ in ids])
    return len(of_jobs), end


class Busy(Exception):  # noqa: N818 - DBOS is not to know it
    """Another process is writing to the database."""


def owner(queue: str) -> str:
    """The queue's name as DBOS wants those of applications."""
    return "jobs-" + re.sub(r"[^a-z0-9_]", lambda c: f"-{ord(c[0]):x}-", queue)


def is_sqlite(url: sa.URL) -> bool:
    return url.drivername == "sqlite"


def database(url: str) -> sa.URL:
    """The database of a URL. Raises ``ValueError``, without the URL's password."""
    try:
        found = sa.make_url(url.removeprefix("dbos+"))
    except (sa.exc.ArgumentError, ValueError):
        raise ValueError("the URL of the jobs is none that SQLAlchemy knows") from None
    if not is_sqlite(found):
        if not found.database:
            raise ValueError("the URL of the jobs names no database: dbos+postgresql://"
                             "user@host/database")  # fmt: skip
        found = found.set(drivername="postgresql+psycopg")
        # In libpq's words: whole seconds from 2 on, and milliseconds.
        return found.update_query_dict(
            {"connect_timeout": "2", "tcp_user_timeout": "10000", **found.query}
        )
    if found.database in (None, "", ":memory:") or "mode=memory" in url:
        raise ValueError("jobs in memory would be lost, and no worker could see them: "
                         "name a file, such as sqlite:///jobs.db")  # fmt: skip
    if found.query or found.host:
        raise ValueError("sqlite:// takes a path only: sqlite:///jobs.db, or with four "
                         "slashes, sqlite:////var/lib/app/jobs.db")  # fmt: skip
    # Whatever links lead there: workers of the same jobs need the same slots.
    return found.set(database=os.path.realpath(found.database or ""))


def connect(url: sa.URL) -> sa.Engine:
    """An engine for a client: it gives up after about ``PATIENCE`` seconds."""
    if not is_sqlite(url):
        libpq = url.set(drivername="postgresql").render_as_string(hide_password=False)
        return sa.create_engine(
            url,
            creator=lambda: Impatient.connect(libpq),
            pool_pre_ping=True,
            pool_timeout=PATIENCE,
            **QUIET,
        )
    engine = sa.create_engine(url, pool_timeout=PATIENCE, **QUIET)
    forks.engines.add(engine)

    # As DBOS does with an engine of its own, but not waiting for half a minute.
    @sa.event.listens_for(engine, "connect")
    def begin_writing(connection: Any, record: Any) -> None:
        connection.isolation_level = "IMMEDIATE"
        connection.execute(f"PRAGMA busy_timeout = {LOCK_WAIT}")
        connection.execute("PRAGMA foreign_keys = ON")

    @sa.event.listens_for(engine, "handle_error")
    def give_up(context: Any) -> None:
        # DBOS tries again for ever after SQLite's own words for it.
        if "is locked" in str(context.original_exception):
            raise Busy("another process is writing to it, and does not end")

    return engine


# What a pool could not close is none of the application's matters, and what led to it
# is raised.
logging.getLogger(f"sqlalchemy.pool.impl.QueuePool.{POOL}").setLevel(logging.CRITICAL)

# A client tells of its connections at INFO, in processes that are not DBOS's.
if logging.getLogger("dbos").level == logging.NOTSET:
    logging.getLogger("dbos").setLevel(logging.WARNING)

ENGINE = Dbos
