"""Jobs in SQLite, without a server, or in Postgres: DBOS keeps and runs them.

Each attempt of a job is a DBOS workflow of its own, ``queue:job:place``. After a
failure, the next attempt is enqueued with a delay, under the id that follows. So no
worker waits, as one would with DBOS's retries of steps. And a worker that is killed
after it has enqueued the next attempt does not enqueue it again.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeVar

import sqlalchemy as sa
from dbos import DBOS, DBOSClient, EnqueueOptions

from ...._runtime import events, report
from ...._runtime.clock import monotonic
from ..._attempt import Attempt
from ..._job import Job, Order, State
from ..._notices import EachMinute
from ..._progress import Progress
from ...errors import JobNotFailedError, UnknownJobError
from .. import _words
from .._engine import Engine, Served, check_waits
from .._postgres import PostgresError
from . import database
from .bells import LATER, NOW, Bell, Bells
from .database import Busy, check_pooler, connect, is_sqlite, owner
from .forks import forks
from .insert import Insert
from .lists import Lists, make_indices
from .serializer import Json
from .slots import MOST, FileSlots, PostgresSlots, Slots
from .sqlite_file import (
    FileGone,
    check_file,
    check_same,
    check_sqlite,
    identity,
    make_ready,
)
from .tables import FIRST, NEXT, Serial, arguments
from .worker import Worker

T = TypeVar("T")

CLEARING_SLOT = MOST  # a slot that no worker takes


class Dbos(Engine):
    """A client of one queue of DBOS."""

    threads = True
    outages = (sa.exc.SQLAlchemyError, sqlite3.Error, PostgresError, Busy, FileGone,
               OSError)  # fmt: skip

    def __init__(self, url: str, jobs: Served) -> None:
        self.jobs = jobs
        self.queue = jobs.queue
        self.owner = owner(jobs.queue)
        self.serial = Serial(jobs.queue)
        self._url = database.database(url)
        self.url = self._url.render_as_string(hide_password=False)
        self._path = self._url.database if is_sqlite(self._url) else None
        self.title = "DBOS on SQLite" if self._path else "DBOS on Postgres"
        self._given = given_path(jobs.given_url)
        self._bells: Bells | None = None
        if self._path:
            self._bells = Bells(f"{self._path}.{self.queue}.bell", self._path)
        self._opening = threading.Lock()
        self._opened: tuple[DBOSClient, Lists] | None = None
        self._notices = EachMinute()

    @staticmethod
    def check(url: str) -> str:
        """Refuse what cannot work. Raises ``ValueError``; opens nothing.

        Returns the URL with the real path, as a daemon changes its directory.
        """
        found = database.database(url)
        if not is_sqlite(found):
            return url
        check_sqlite()
        check_file(found.database or "")
        return found.render_as_string()

    def enqueue(self, order: Order) -> None:
        self.put(Attempt.first(order), 1, order.delay)

    def put(self, attempt: Attempt, place: int, delay: float) -> None:
        """Store an attempt at that place in its job. One that is there stays."""
        self._watch_path()
        options = self._options(attempt, place, delay)
        self._ask(
            _words.storing(attempt.name),
            lambda dbos, _: dbos.enqueue(options, *arguments(attempt)),
        )
        self.ring(LATER if delay else NOW)

    def enqueue_many(self, orders: Sequence[Order]) -> None:
        self._watch_path()
        insert: Any = Insert()
        delay = max(order.delay for order in orders)

        def collect(dbos: DBOSClient, rows: Lists) -> None:
            for order in orders if not insert.statements else ():
                attempt = Attempt.first(order)
                options = self._options(attempt, 1, order.delay)
                dbos.enqueue_in_transaction(insert, options, *arguments(attempt))
            with rows.engine.begin() as connection:
                insert.run(connection)

        self._ask(_words.storing_many(len(orders)), collect)
        self.ring(LATER if delay else NOW)

    def _options(self, attempt: Attempt, place: int, delay: float) -> EnqueueOptions:
        options: EnqueueOptions = {
            "workflow_name": FIRST if place == 1 else NEXT,
            "workflow_id": self.serial.id(attempt.job_id, place),
            "queue_name": self.queue,
            # Not the application's: DBOS recovers only jobs of the same version.
            "app_version": self.owner,
        }
        if delay:
            options["delay_seconds"] = delay
        return options

    def status(self, job_id: str) -> Job | None:
        found = self._ask(_words.READING, lambda _, rows: rows.jobs([job_id]))
        return found[0] if found else None

    def failed(self, limit: int, name: str | None = None) -> list[Job]:
        return self._ask(
            _words.LISTING_FAILED, lambda _, rows: rows.failed(limit, name)
        )

    def recent(
        self, limit: int, name: str | None = None, state: State | None = None
    ) -> list[Job]:
        return self._ask(
            _words.LISTING, lambda _, rows: rows.recent(limit, name, state)
        )

    def counts(self, by_name: bool) -> Iterable[tuple[str, State, int]]:
        return self._ask(_words.COUNTING, lambda _, rows: rows.counts(by_name))

    def cancel(self, job_id: str) -> None:
        cancelled = False
        while not cancelled:
            last = self._ask(_words.CANCELLING, lambda _, rows: rows.last(job_id))
            if last is None:
                raise UnknownJobError(job_id)
            place, state, _ = last
            if not check_waits(job_id, state):
                return
            attempt = partial(cancel, self.serial.id(job_id, place))
            cancelled = self._ask(_words.CANCELLING, attempt)

    def retry(self, job_id: str) -> None:
        last = self._ask(_words.RETRYING, lambda _, rows: rows.last(job_id))
        if last is None:
            raise UnknownJobError(job_id)
        place, state, attempt = last
        if state != "failed":
            raise JobNotFailedError(job_id, state)
        # Two retries of one failure find the same place, however late they store.
        self.put(attempt.again(), place + 1, 0)

    def clear(self, before: float) -> int:
        with self.reaching(_words.CLEARING):
            slots = self.slots()
            try:
                # Of two, one could delete a new job, whose id the other has set free.
                if not slots.take(CLEARING_SLOT):
                    if self._notices.due(CLEARING_SLOT):
                        name = slots.name(CLEARING_SLOT)
                        report.log(
                            events.JOBS_NOT_CLEARED,
                            "nothing was cleared: another process has locked %s. If "
                            "that is not another clear(), end it", name,
                            facts={"slot": name},
                        )  # fmt: skip
                    return 0
                cleared = 0
                after: str | None = ""
                while after is not None:
                    # A few at a time: meanwhile, SQLite lets nobody else write.
                    some = partial(clear, before, after)
                    count, after = self._ask(_words.CLEARING, some)
                    cleared += count
                return cleared
            finally:
                slots.close()

    def progress(self, job_id: str, attempt: int, progress: Progress) -> None:
        place, text = self.serial.id(job_id, 1), progress.to_text(attempt)
        self._ask(_words.STORING_PROGRESS, lambda _, rows: rows.tell(place, text))

    def due(self, job_id: str, place: int) -> float | None:
        """The Unix time since when an attempt could have run."""
        id_ = self.serial.id(job_id, place)
        return self._ask(_words.READING, lambda _, rows: rows.due(id_))

    def follows(self, job_id: str, place: int) -> bool:
        """Whether an attempt is already followed by another."""
        following = self.serial.id(job_id, place + 1)
        return self._ask(_words.READING, lambda _, rows: rows.exists(following))

    def busy_slots(self) -> set[str]:
        """The executor ids of workers that run jobs, or died while they did."""
        return self._ask("looking for dead workers", lambda _, rows: rows.slots())

    def running(self, slot: str) -> set[str]:
        """The ids of workflows that run under that id, as the database has it."""
        return self._ask("looking for lost jobs", lambda _, rows: rows.running(slot))

    def foreign(self) -> int:
        """How many of DBOS's rows that wait here are not jobs."""
        return self._ask("counting other rows", lambda _, rows: rows.foreign())

    def next_due(self) -> float | None:
        """When the next delayed job is to be queued, as a Unix time."""
        return self._ask("looking for delayed jobs", lambda _, rows: rows.next_due())

    def ring(self, what: bytes = NOW) -> None:
        """Wake the workers of this queue."""
        if self._bells is not None:
            self._bells.ring(what)

    def bell(self, slot: int, polling: float) -> Bell:
        """What the worker of that slot waits at."""
        if self._bells is None:
            return Bell(None, look=polling)
        return Bell(self._bells.make(slot), f"{self._path}-wal")

    def register_queue(self, polling: float) -> None:
        """Tell DBOS's tools, and workers of an older release, about the queue."""
        self._ask(
            "registering the queue",
            lambda dbos, _: dbos.register_queue(
                self.queue, worker_concurrency=1, polling_interval_sec=polling
            ),
        )

    def _ask(self, doing: str, call: Callable[[DBOSClient, Lists], T]) -> T:
        deadline = 0.0
        with self.reaching(doing), self._using():
            while True:
                opened = self._open()  # has a patience of its own
                deadline = deadline or monotonic() + database.PATIENCE
                try:
                    return call(*opened)
                except Busy:
                    if monotonic() >= deadline:
                        raise
                finally:
                    self._check_file(opened)

    def _check_file(self, opened: tuple[DBOSClient, Lists]) -> None:
        """Refuse a call whose file is gone, and with it what the call has stored."""
        if self._path is None:
            return
        try:
            check_same(self._path, opened[1].file)
        except FileGone:
            # Only that one: another thread may have opened the new file meanwhile.
            with self._opening:
                mine = self._opened is opened
                self._opened = None if mine else self._opened
            if mine:
                close(*opened)
            raise

    def _watch_path(self) -> None:
        """Say it once if the URL leads to another file by now."""
        given = self._given  # another thread may set it to None meanwhile
        if self._path is None or given is None:
            return
        try:
            now = os.path.realpath(given)
        except OSError:  # the current directory was removed
            return
        if now != self._path:
            self._given = None
            report.log(
                events.JOBS_MOVED,
                "jobs are stored in %s, where the URL of Jobs() led when it was made. "
                "It leads to %s now, and a worker that starts here uses that. Give "
                "Jobs() an absolute path without links", self._path, now, facts={},
            )  # fmt: skip

    def file(self) -> tuple[int, int] | None:
        """The device and the inode of the file of the jobs."""
        return None if self._path is None else identity(self._path)

    def must_be(self, file: tuple[int, int] | None) -> None:
        """Raise ``JobsUnavailable`` if the file is another one by now."""
        if self._path is not None:
            with self.reaching("keeping the file of the jobs"):
                check_same(self._path, file)

    def _using(self) -> AbstractContextManager[None]:
        return nullcontext() if self._path is None else forks.using(database.PATIENCE)

    def slots(self) -> Slots:
        """The locks of the workers of this queue."""
        with self.reaching("locking a worker's slot"):
            if self._path is not None:
                return FileSlots(f"{self._path}.{self.queue}.slot", self._path)
            return PostgresSlots(connect(self._url), self.queue)

    def where(self) -> str | None:
        if self._path is None:
            return None
        new = "" if os.path.exists(self._path) else ", a new file that is made now"
        return f"SQLite keeps the jobs in {self._path}{new}"

    def work(self, slot: int, processes: int, threads: int) -> None:
        Worker(self, slot, threads).run()

    def close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            close(*opened)

    def _open(self) -> tuple[DBOSClient, Lists]:
        if self._opened is not None:
            return self._opened
        patience = database.PATIENCE
        started = monotonic()
        got = self._opening.acquire(timeout=patience)
        try:
            if self._opened is None:
                if not got or monotonic() - started > patience / 2:
                    raise TimeoutError("another thread waits for it, too")
                self._opened = self._made()
            return self._opened
        finally:
            if got:
                self._opening.release()

    def _made(self) -> tuple[DBOSClient, Lists]:
        if self._path is not None:
            make_ready(self._path, database.PATIENCE)
        file = self.file()
        engine = connect(self._url)
        try:
            with engine.connect():  # DBOS would wait longer for it
                pass
            if self._path is None:
                check_pooler(self.title, self._url)
            # The first process creates the tables; DBOS lets the others wait.
            DBOS.migrate(self.url)
            if self._path is not None:
                make_indices(engine)
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
        return client, Lists(engine, self.serial, self.owner, file)


def cancel(workflow_id: str, dbos: DBOSClient, rows: Lists) -> bool:
    """Cancel an attempt that waits; False if it does not any more."""
    return rows.cancel(workflow_id)


def close(client: DBOSClient, attempts: Lists) -> None:
    client.destroy()
    attempts.engine.dispose()


def given_path(url: str | None) -> str | None:
    """The path of a URL of SQLite, as it was written."""
    given = None if url is None else sa.make_url(url)
    return given.database if given is not None and is_sqlite(given) else None


def clear(
    before: float, after: str, dbos: DBOSClient, rows: Lists
) -> tuple[int, str | None]:
    """Forget some done jobs; return how many, and where to continue, as ``done()``."""
    of_jobs, end = rows.done(before, after)
    if of_jobs:
        dbos.delete_workflows([id_ for ids in of_jobs for id_ in ids])
    return len(of_jobs), end


# A client logs its connections at INFO, in processes that are not DBOS's.
if logging.getLogger("dbos").level == logging.NOTSET:
    logging.getLogger("dbos").setLevel(logging.WARNING)

ENGINE = Dbos
