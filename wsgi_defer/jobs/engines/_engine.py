"""What a queue engine does, and which engine belongs to which URL."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, ClassVar, NoReturn, Protocol

from ...observers._job_observer import JobObserver
from .._job import Job, Order, State
from .._progress import Progress
from .._worklog import WorkLog
from ..errors import JobNotWaitingError, JobsUnavailable, NotSupported
from ._words import CANNOT

# Scheme of the URL: the engine's folder, and the extra that installs it.
ENGINES = {
    "sqlite": ("dbos", "jobs"),
    "dbos+postgresql": ("dbos", "jobs"),
    "redis": ("rq", "rq"),
    "rediss": ("rq", "rq"),
    "amqp": ("celery", "celery"),
    "amqps": ("celery", "celery"),
    "postgresql": ("procrastinate", "procrastinate"),
    "postgres": ("procrastinate", "procrastinate"),
}


class Served(Protocol):
    """What an engine knows of the ``Jobs`` that it serves."""

    queue: str
    given_url: str | None  # as ``Jobs()`` was given it; an engine may get another
    results: str | None
    worklog: WorkLog

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all handlers of this process."""

    def is_stale(self, name: str, job_id: str) -> bool:
        """Whether a job is of a time that is not in the schedule of its name."""

    @property
    def observers(self) -> Sequence[JobObserver]:
        """Who sees the jobs."""

    @property
    def engine(self) -> Any:
        """The engine of this process."""

    def run(
        self, name: str, payload: str, job_id: str, attempt: int, *, last: bool
    ) -> Any:
        """Run a job's handler; return its result. Raises what the handler raises."""


def check_waits(job_id: str, state: State) -> bool:
    """Whether a job waits; False if it is cancelled. Raises ``JobNotWaitingError``."""
    if state not in ("queued", "scheduled", "cancelled"):
        raise JobNotWaitingError(job_id, state)
    return state != "cancelled"


class Engine(ABC):
    """A client of a queue, one per process. It is made when it is first used.

    A subclass, ``ENGINE`` in its module, takes the URL and the ``Jobs`` that it
    serves. Its static method ``check(url)`` refuses, with ``ValueError``, a URL or a
    machine that it cannot work with, and opens nothing. It may return another URL to
    use: one that leads to the same place from everywhere.

    Thread-safe. All methods but ``work()`` and ``clear()`` return within about 2
    seconds, or raise ``JobsUnavailable``. What a subclass does not override raises
    ``NotSupported``.
    """

    title: str  # its name in errors
    own_processes = False  # its worker starts the processes that run the jobs
    holds = True  # a job enqueued in a request waits until the response is a success
    delays = True  # it can wait before it runs a job
    schedules = True  # and refuses a second job of the same id
    threads = False  # a process of its worker can run several jobs at a time
    # What to do instead of what it cannot do, by the name of the method.
    hints: ClassVar[Mapping[str, str]] = {}
    # What its library raises if the server does not answer.
    outages: ClassVar[tuple[type[Exception], ...]] = ()

    @abstractmethod
    def enqueue(self, order: Order) -> None:
        """Store it; return when that is done. An id that is known stays as it is."""

    def enqueue_many(self, orders: Sequence[Order]) -> None:
        """Store all of them, if the engine can in one transaction."""
        for order in orders:
            self.enqueue(order)

    def status(self, job_id: str) -> Job | None:
        """What is known of it; None if nothing is."""
        self.refuse("status")

    def failed(self, limit: int, name: str | None = None) -> list[Job]:
        """The jobs that have failed for good, the latest failure first.

        With a name, the limit holds for those of that name.
        """
        self.refuse("failed")

    def recent(
        self, limit: int, name: str | None = None, state: State | None = None
    ) -> list[Job]:
        """Jobs of that name, or any, in that state, or any; the latest first."""
        self.refuse("recent")

    def counts(self, by_name: bool) -> Iterable[tuple[str, State, int]]:
        """How many jobs of that name are in that state.

        Without ``by_name``, all names are "". A pair may come several times, and those
        without jobs may be left out.
        """
        self.refuse("counts")

    def cancel(self, job_id: str) -> None:
        """Have a job that is queued or scheduled never run; it is "cancelled".

        Of this and a worker that is about to start the job, exactly one succeeds. Does
        nothing if the job is cancelled already. Raises ``UnknownJobError``, and
        ``JobNotWaitingError`` in all other states.
        """
        self.refuse("cancel")

    def retry(self, job_id: str) -> None:
        """Queue a failed job again, under its id. Its attempts start again at 1.

        Raises ``UnknownJobError`` and ``JobNotFailedError``.
        """
        self.refuse("retry")

    def clear(self, before: float) -> int:
        """Forget the jobs that were done or cancelled before that Unix time.

        Returns how many.
        """
        self.refuse("clear")

    def progress(self, job_id: str, attempt: int, progress: Progress) -> None:
        """Keep how far a running job is, for ``status()``, instead of what was kept."""
        self.refuse("progress")

    def work(self, slot: int, processes: int, threads: int) -> None:
        """Run the engine's own worker until SIGTERM or SIGINT; finish what runs.

        ``slot`` tells the processes of one command apart: 0, 1, 2 and so on. With
        ``own_processes`` there is only slot 0, and it starts ``processes``. Each runs
        ``threads`` jobs at a time.
        """
        self.refuse("work")

    def where(self) -> str | None:
        """A sentence that says where the jobs are, if the URL alone does not tell."""
        return None

    @abstractmethod
    def close(self) -> None:
        """Close its connections."""

    def refuse(self, method: str) -> NoReturn:
        """Say that it cannot do that, and what to do instead."""
        raise NotSupported(self.title, CANNOT[method], self.hints.get(method, ""))

    @contextmanager
    def reaching(self, doing: str, *outages: type[Exception]) -> Iterator[None]:
        """Raise ``JobsUnavailable`` in place of those exceptions.

        Without any, these are its ``outages``.
        """
        errors = outages or self.outages
        try:
            yield
        except errors as error:
            raise JobsUnavailable(self.title, doing) from self.cause(error)

    def cause(self, error: BaseException) -> BaseException:
        """The exception that says most: that one, or the one behind it."""
        return error


def engine_for(url: str) -> Any:
    """The class for that URL. Raises ``ValueError`` and ``ImportError``."""
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in ENGINES:
        known = ", ".join(f"{name}://" for name in ENGINES)
        # Not the URL: it may hold a password.
        raise ValueError(f"no job engine has URLs that start with {scheme[:20]!r}; "
                         f"these do: {known}")  # fmt: skip
    name, extra = ENGINES[scheme]
    try:
        return import_module(f".{name}.client", __package__).ENGINE
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{scheme}:// needs the package {error.name!r}, which is not installed: "
            f"pip install 'wsgi-defer[{extra}]'"
        ) from error
