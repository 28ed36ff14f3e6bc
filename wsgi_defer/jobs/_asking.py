"""What is asked about jobs that are enqueued, and done with them."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from typing import Literal, overload

from ._job import STATES, Job, State, check_name, is_id
from .engines._engine import Engine
from .errors import JobNotFailedError, UnknownJobError

MOST_LISTED = 100_000  # jobs


class Asking(ABC):
    """The part of ``Jobs`` that needs no handlers.

    All methods raise ``JobsUnavailable`` if the engine does not answer, and
    ``NotSupported`` if it cannot do that.
    """

    @property
    @abstractmethod
    def engine(self) -> Engine:
        """The engine of this process."""

    def status(self, job_id: str) -> Job | None:
        """What is known of a job; ``None`` if no job has that id."""
        return self.engine.status(job_id) if is_id(job_id) else None

    def failed(self, limit: int = 50, *, name: str | None = None) -> list[Job]:
        """The jobs whose last attempt has failed, the latest failure first.

        With a ``name``, only those of that handler. Raises ``ValueError`` for
        arguments that make no sense.
        """
        check_number("limit", limit, 0, MOST_LISTED)
        return self.engine.failed(limit, _checked(name))

    def recent(
        self, limit: int = 50, *, state: State | None = None, name: str | None = None
    ) -> list[Job]:
        """Jobs in any state, or in that one, the latest first.

        With a ``name``, only those of that handler. Raises ``ValueError`` for
        arguments that make no sense.
        """
        check_number("limit", limit, 0, MOST_LISTED)
        if state is not None and state not in STATES:
            raise ValueError(f"state is one of {', '.join(STATES)}; not {state!r:.100}")
        return self.engine.recent(limit, _checked(name), state)

    @overload
    def counts(self) -> dict[State, int]: ...

    @overload
    def counts(self, by_name: Literal[True]) -> dict[str, dict[State, int]]: ...

    def counts(
        self, by_name: bool = False
    ) -> dict[State, int] | dict[str, dict[State, int]]:
        """How many jobs there are in each state.

        ``by_name`` returns such a dict for each name of a handler that has jobs, and
        takes longer.
        """
        found: dict[str, dict[State, int]] = {} if by_name else {"": _zeros()}
        for name, state, number in self.engine.counts(by_name):
            found.setdefault(name, _zeros())[state] += number
        return dict(sorted(found.items())) if by_name else found[""]

    def cancel(self, job_id: str) -> str:
        """Have a job that waits never run; return its id.

        It may wait for a worker, for its delay, or for its next attempt. Its state is
        "cancelled" then, and its id stays taken until the job is forgotten. A
        cancelled job may be cancelled again.

        Raises ``UnknownJobError``; and ``JobNotWaitingError`` if it runs, or has ended.
        """
        if not is_id(job_id):
            raise UnknownJobError(str(job_id))
        self.engine.cancel(job_id)
        return job_id

    def retry(self, job_id: str) -> str:
        """Queue a failed job again, under the same id, as if it were new.

        Raises ``UnknownJobError`` and ``JobNotFailedError``.
        """
        if not is_id(job_id):
            raise UnknownJobError(str(job_id))
        self.engine.retry(job_id)
        return job_id

    def retry_all(self, name: str | None = None) -> int:
        """Queue all failed jobs again, or all of that name; return how many.

        Those that fail meanwhile are left, and so are those beyond the latest 100,000.
        Takes longer than other methods. If it raises, some are queued.
        """
        count = 0
        for job in self.engine.failed(MOST_LISTED, _checked(name)):
            try:
                self.engine.retry(job.id)
                count += 1
            except (UnknownJobError, JobNotFailedError):
                continue  # somebody else was faster
        return count

    def clear(self, older_than: float) -> int:
        """Forget the jobs that ended more than ``older_than`` seconds ago.

        These are the done and the cancelled ones; failed jobs stay. Returns how many;
        with DBOS, 0 while another process clears the queue. The ``status()`` of a
        forgotten job is ``None``, and its id may be used again. Takes longer than other
        methods if there are many jobs. If it raises, some are forgotten.

        Raises ``NotSupported`` if the engine forgets them by itself, and ``ValueError``
        for a negative time.
        """
        if not 0 <= older_than < math.inf:
            raise ValueError(f"older_than takes seconds, 0 or more, not {older_than}")
        return self.engine.clear(max(time.time() - older_than, 0))


def check_number(option: str, number: int, least: int, most: int) -> int:
    """Refuse anything but a whole number in that range. Raises ``ValueError``."""
    whole = isinstance(number, int) and not isinstance(number, bool)
    if not whole or not least <= number <= most:
        raise ValueError(
            f"{option} takes a whole number from {least} to {most}, not {number!r}"
        )
    return number


def _checked(name: str | None) -> str | None:
    return None if name is None else check_name(name)


def _zeros() -> dict[State, int]:
    return dict.fromkeys(STATES, 0)
