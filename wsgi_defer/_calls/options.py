"""The options that all scopes of one middleware share, and their limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import Context
from typing import Any, Literal, NamedTuple, Protocol

from ..observers._observers import Observers
from .call import Call
from .invoke import Around, check_seconds

MAX_CALLS = 1000  # of one request
MAX_WAITING = 1000  # for the background threads of one process
GRACE = 5.0  # seconds for a call's clean-up after its time limit
WhenBusy = Literal["inline", "thread"]


class Room(Protocol):
    """Where the calls of many scopes wait, and which may be full."""

    def admit(self, call: Call, scope: Any) -> None:
        """Take one more, or raise ``TooManyWaitingError``."""


class Options(NamedTuple):
    """What the scopes of one middleware have in common, see ``DeferMiddleware``."""

    max_calls: int = MAX_CALLS
    around: Around | None = None
    inline: bool | None = None
    when_busy: WhenBusy = "inline"
    observers: Observers = Observers()
    time_limit: float | None = None
    slow_after: float | None = None
    room: Room | None = None
    pools: Mapping[str, Any] | None = None  # of kinds of pools, by name
    time_limit_grace: float = GRACE
    background_threads: int = 1
    # Tells a call's limit by its context, where several apps share a scope.
    limit_in: Callable[[Context], float | None] | None = None

    def checked(self) -> Options:
        """Refuse what would fail later, at the first call; return the options."""
        if self.max_calls < 1:
            raise ValueError(f"max_calls must be at least 1, not {self.max_calls}")
        if self.around is not None and not callable(self.around):
            kind = type(self.around).__name__
            raise TypeError(
                f"around must return a context manager when called, not {kind}"
            )
        if self.background_threads < 1:
            raise ValueError(
                f"background_threads must be at least 1, not {self.background_threads}"
            )
        check_choice("when_busy", self.when_busy, ("inline", "thread"))
        if self.time_limit is not None:
            check_seconds("time_limit", self.time_limit)
        check_seconds("time_limit_grace", self.time_limit_grace)
        if self.slow_after is not None:
            check_seconds("slow_after", self.slow_after)
        return self

    def completed_by(self, other: Options) -> Options:
        """Take from the other options what depends on the app, if these have none."""
        options = self
        if options.around is None and other.around is not None:
            options = options._replace(around=other.around)
        if options.limit_in is None and other.limit_in is not None:
            options = options._replace(limit_in=other.limit_in)
        if options.pools is None and other.pools is not None:
            options = options._replace(pools=other.pools)
        return options


DEFAULTS = Options()


class Owner(Protocol):
    """A call's scope, as seen by the code that runs the call."""

    options: Options
    forked: bool

    def conclude(
        self,
        call: Call,
        end: int,
        value: object = None,
        error: BaseException | None = None,
    ) -> None:
        """The call has returned, or raised: count it, and tell the observers."""

    def skip(self, call: Call, why: str) -> None:
        """The call does not run, as intended. No effect if its end was told."""

    def lose(self, call: Call, why: str) -> None:
        """The call did not run to its end."""


def check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a value that is not among the choices. Raises ``ValueError``."""
    if value not in choices:
        allowed = " or ".join(repr(choice) for choice in choices)
        raise ValueError(f"{option} is {allowed}, not {value!r}")
