"""What can go wrong when a job is enqueued, or asked for."""

from __future__ import annotations

from ..errors import DeferError


class JobsUnavailable(DeferError):  # noqa: N818 - the name that services use for it
    """The engine does not answer.

    Carries ``engine``, its name, and ``doing``, what failed. The cause says more.
    """

    def __init__(self, engine: str, doing: str) -> None:
        super().__init__(engine, doing)
        self.engine = engine
        self.doing = doing

    def __str__(self) -> str:
        return (
            f"the job engine {self.engine} is not available: {self.doing} failed. Is "
            "its server running, and does the URL given to Jobs() lead to it?"
        )


class NotSupported(DeferError):  # noqa: N818 - as above
    """The engine cannot do that.

    Carries ``engine``, its name, and ``what`` it cannot do.
    """

    def __init__(self, engine: str, what: str, hint: str = "") -> None:
        super().__init__(engine, what, hint)
        self.engine = engine
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.engine} cannot {self.what}. {self.hint}".rstrip()


class UnknownHandlerError(DeferError, LookupError):
    """There is no handler of that name.

    Carries ``name``, and ``known``, the names of all handlers.
    """

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(name, known)
        self.name = name
        self.known = known

    def __str__(self) -> str:
        names = ", ".join(repr(name) for name in self.known)
        found = (
            f", only {names}" if names else ": this process has registered no handlers"
        )
        return (
            f"there is no handler {self.name!r}{found}. Import the module that has its "
            f"@jobs.handler({self.name!r}, ...), in the worker, too."
        )


class UnknownJobError(DeferError, LookupError):
    """The engine does not know a job of that id. Carries ``job_id``."""

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id)
        self.job_id = job_id

    def __str__(self) -> str:
        return f"there is no job {self.job_id!r}; it may have been cleared"


class JobNotFailedError(DeferError):
    """Only failed jobs can be retried. Carries ``job_id`` and ``state``."""

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(job_id, state)
        self.job_id = job_id
        self.state = state

    def __str__(self) -> str:
        return f"the job {self.job_id!r} is {self.state}; only a failed one is retried"


class JobNotWaitingError(DeferError):
    """Only a job that waits can be cancelled. Carries ``job_id`` and ``state``."""

    def __init__(self, job_id: str, state: str) -> None:
        super().__init__(job_id, state)
        self.job_id = job_id
        self.state = state

    def __str__(self) -> str:
        return (
            f"the job {self.job_id!r} is {self.state}; only one that waits is cancelled"
        )


class JobTimeLimitError(DeferError):
    """A job took longer than its handler's ``time_limit``.

    Carries ``name`` and ``limit``, in seconds.
    """

    def __init__(self, name: str, limit: float) -> None:
        super().__init__(name, limit)
        self.name = name
        self.limit = limit

    def __str__(self) -> str:
        return f"the job {self.name} took longer than its limit of {self.limit:g} s."


class PayloadError(DeferError, ValueError):
    """What ``enqueue()`` was given is not JSON, or is too large. Carries ``name``."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(name, why)
        self.name = name
        self.why = why

    def __str__(self) -> str:
        return (
            f"the payload of {self.name} {self.why}. Store large or odd things where "
            "the handler finds them, and pass their key."
        )
