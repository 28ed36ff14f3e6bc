"""What sees the jobs: an object that is asked where they are enqueued, and run."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple


class JobAttempt(NamedTuple):
    """One attempt of a job, as a worker is about to run it."""

    job_id: str
    name: str  # that of its handler
    number: int  # 1 for the first attempt
    last: bool  # no other one follows if it fails


class JobObserver:
    """Sees each job where it is enqueued, and each attempt where it runs.

    Those two may be in different processes. What ``enqueuing()`` puts into ``carrier``
    is stored with the job, and is what ``attempting()`` gets, for each attempt. If a
    method raises, that is logged, and harms no job. Give it to ``Jobs(...,
    observers=[...])``. Under Flask, ``Defer(app, observers=[...])`` will do, too.
    """

    def enqueuing(self, name: str, carrier: MutableMapping[str, str]) -> None:
        """A job of that name is enqueued, by this code and in this context.

        Keys and values must be text, and short: both are stored with each job.
        """

    def attempting(
        self, attempt: JobAttempt, carrier: Mapping[str, str]
    ) -> AbstractContextManager[object]:
        """Return a context manager. The attempt runs inside, and its calls do.

        What the handler raises passes through it. What it returns from ``__exit__()``
        does not matter.
        """
        return nullcontext()

    def flush(self) -> None:
        """The process ends now, and runs no exit handlers: send what is left to send.

        RQ ends a process so, after each job. Take a few seconds at most.
        """
