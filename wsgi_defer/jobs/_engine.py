"""What a queue engine is to do, and which one belongs to which URL."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol

from ._job import Job, Order

# Scheme of the URL: module, extra that installs it.
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


class Engine(Protocol):
    """A client of a queue, one per process: made when it is first used.

    The class of each, ``ENGINE`` in its module, takes the URL and the ``Jobs``, and has
    a static method ``check(url)``, which refuses, with ``ValueError``, a URL or a
    machine that it cannot work with, and opens nothing. It may return the URL to use
    instead: one that leads to the same place from everywhere.

    Thread-safe. All methods but ``work()`` and ``clear()`` return within about 2
    seconds, or raise ``JobsUnavailable``. What the engine cannot do raises
    ``NotSupported``.
    """

    title: str  # what errors and tables call it
    own_processes: bool  # its worker starts the processes that run the jobs
    holds: bool  # what is enqueued in a request waits for the response to be a success
    delays: bool  # it can wait before it runs a job

    def enqueue(self, order: Order) -> None:
        """Store it; return when that is done. An id that is known stays as it is."""

    def status(self, job_id: str) -> Job | None:
        """What is known of it; None if nothing is."""

    def failed(self, limit: int) -> list[Job]:
        """Those that have failed for good, the latest first."""

    def recent(self, limit: int) -> list[Job]:
        """Jobs in any state, the latest first."""

    def retry(self, job_id: str) -> None:
        """Queue a failed job again, under its id; its attempts start again.

        Raises ``UnknownJobError`` and ``JobNotFailedError``.
        """

    def clear(self, before: float) -> int:
        """Forget the jobs that were done before that Unix time; return how many."""

    def work(self, slot: int, processes: int) -> None:
        """Run the engine's own worker until SIGTERM or SIGINT; finish what runs.

        ``slot`` tells the processes of one command apart: 0, 1, 2 and so on. With
        ``own_processes`` there is only the slot 0, and it is to start ``processes``.
        """

    def close(self) -> None:
        """Let go of its connections."""


def engine_for(url: str) -> Any:
    """The class for that URL. Raises ``ValueError``, and ``ImportError``."""
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in ENGINES:
        known = ", ".join(f"{name}://" for name in ENGINES)
        # Not the URL: it may hold a password.
        raise ValueError(f"no job engine has URLs that begin with {scheme[:20]!r}; "
                         f"these do: {known}")  # fmt: skip
    module, extra = ENGINES[scheme]
    try:
        return import_module(f".{module}", __package__).ENGINE
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{scheme}:// needs the package {error.name!r}, which is not installed: "
            f"pip install 'wsgi-defer[{extra}]'"
        ) from error
