"""One attempt of a job, as a worker runs it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .._runtime import events, report
from .._runtime.events import Facts
from ._job import Order, describe
from ._notices import OncePerName
from ._time_limit import ending
from ._worklog import Outcome
from .engines._engine import Served
from .errors import UnknownHandlerError

# A job whose handler the worker lacks is put back: after 1 second, then 2, and so on,
# up to half an hour. That is about a day in all. Then its attempts fail.
LONGEST_ABSENCE = 1800.0  # seconds
MOST_ABSENCES = 58
# A job whose due time is not in the worker's schedule is put back, too: another release
# may have it. After 4 minutes in all, the schedule counts as changed.
MOST_OF_STALE = 8
_absent = OncePerName()


@dataclass(frozen=True)
class Attempt:
    """What a worker is given to run."""

    job_id: str
    name: str
    payload: str  # JSON
    # All seconds between the attempts. They are stored with the job: its worker may
    # not know the handler yet.
    waits: Sequence[float]
    number: int = 1  # 1, 2 and so on; a retry by hand starts again at 1
    error: str | None = None  # of the attempt before, if the engine keeps it here
    absences: int = 0  # how often a worker had no handler for it, which costs none
    # The Unix time since when it could have run, if that is known.
    due: float | None = field(default=None, compare=False)

    @classmethod
    def first(cls, order: Order) -> Attempt:
        """The first attempt of a new job."""
        due = time.time() + order.delay
        return cls(order.id, order.name, order.payload, order.handler.waits, due=due)

    @property
    def last(self) -> bool:
        return self.number > len(self.waits)

    @property
    def wait(self) -> float | None:
        """Seconds from its failure to the next attempt; None if it is the last."""
        return None if self.last else self.waits[self.number - 1]

    @property
    def facts(self) -> Facts:
        """For the log."""
        return {"job": self.name, "job_id": self.job_id, "attempt": self.number}

    def next(self, error: str | None = None) -> Attempt:
        """The attempt after it has failed with that error."""
        due = time.time() + (self.wait or 0)
        return replace(self, number=self.number + 1, error=error, due=due)

    def again(self) -> Attempt:
        """The first attempt, as if the job were new."""
        return replace(self, number=1, error=None, absences=0, due=time.time())

    def run(
        self,
        jobs: Served,
        but: tuple[type[BaseException], ...] = (),
        store: Callable[[AttemptFailed], None] | None = None,
    ) -> Any:
        """Run the handler; return its result.

        Raises ``AttemptFailed`` in place of all exceptions ``but`` those, and if the
        job is to be put back. With ``store``, this process ends if the handler does not
        end after its time limit; before, another thread calls that with the failure.
        """
        if self.name not in jobs.names and self.absences < MOST_ABSENCES:
            raise self._put_back(self._unknown(jobs.names))
        if self.absences < MOST_OF_STALE and jobs.is_stale(self.name, self.job_id):
            report.log(
                events.JOB_NOT_DUE, "job %s %s is put back: by the schedule of this "
                "worker, it is not due", self.name, self.job_id,
                facts={"job": self.name, "job_id": self.job_id},
            )  # fmt: skip
            raise self._put_back("its worker has another schedule")
        tell = self._start(jobs)

        def failed(error: BaseException) -> AttemptFailed:
            tell("failed" if self.last else "again", again_in=self.wait)
            text = describe(error)
            return AttemptFailed(text, self.wait, self.next(text))

        give_up = None if store is None else lambda error: store(failed(error))
        try:
            with ending(give_up):
                result = jobs.run(
                    self.name, self.payload, self.job_id, self.number, last=self.last
                )
        except BaseException as error:
            if isinstance(error, but):
                raise
            raise failed(error) from None
        tell("done")
        return result

    def _start(self, jobs: Served) -> Any:
        """Note that it starts; return what notes how it ends."""
        waited = None if self.due is None else max(time.time() - self.due, 0.0)
        jobs.worklog.started()
        began = time.monotonic()

        def tell(outcome: Outcome, again_in: float | None = None) -> None:
            ran = time.monotonic() - began
            jobs.worklog.ended(self.name, self.job_id, self.number, outcome,
                               waited=waited, ran=ran, again_in=again_in)  # fmt: skip

        return tell

    def _unknown(self, names: tuple[str, ...]) -> str:
        error = UnknownHandlerError(str(self.name)[:100], names)
        if _absent.is_new(self.name):
            report.log(
                events.HANDLER_MISSING, "%s The jobs of that name are put back, and "
                "fail after about a day", error, facts={"job": str(self.name)[:100]},
            )  # fmt: skip
        return describe(error)

    def _put_back(self, error: str) -> AttemptFailed:
        """Leave it to another worker, as that may have another release."""
        wait = min(2.0**self.absences, LONGEST_ABSENCE)
        following = replace(
            self, error=error, absences=self.absences + 1, due=time.time() + wait
        )
        return AttemptFailed(error, wait, following)


class AttemptFailed(Exception):  # noqa: N818 - its text is that of the real error
    """An attempt has failed.

    Raised in place of the handler's exception, which may be long or secret. Carries
    ``error``, what ``Job.error`` says; ``wait``, the seconds until the next attempt,
    None after the last; and ``following``, that attempt.
    """

    def __init__(self, error: str, wait: float | None, following: Attempt) -> None:
        # RQ stores the text as UTF-8, which the handler's may not be.
        super().__init__(ascii(error))
        self.error = error
        self.wait = wait
        self.following = following
