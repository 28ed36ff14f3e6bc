"""What travels with a job beside its payload, such as the context of a trace.

It is a second line behind the payload, which is JSON and has one line. So it is
wherever the payload is: in every engine, in each attempt, and after a retry. It is
there only if an observer has put something into it: an app without one stores what it
has always stored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from types import TracebackType

from .._runtime import report
from ..observers._job_observer import JobAttempt, JobObserver
from ._notices import OncePerName

MOST = 8192  # bytes; W3C's limit for baggage, by far the longest
_told = OncePerName()


def carried(observers: Iterable[JobObserver], name: str) -> str:
    """What the observers send along with a job of that name: nothing, or a line."""
    carrier: dict[str, str] = {}
    for observer in observers:
        try:
            added: dict[str, str] = {}
            observer.enqueuing(name, added)
            carrier.update(_checked(added))
        except Exception as error:
            _complain(observer, "enqueuing", error)
    return f"\n{_as_text(carrier)}" if carrier else ""


def _checked(carrier: dict[str, str]) -> dict[str, str]:
    if not all(isinstance(each, str) for pair in carrier.items() for each in pair):
        raise TypeError("keys and values must be text")
    if len(_as_text(carrier)) > MOST:
        raise ValueError(f"more than {MOST} bytes cannot be sent along with a job")
    return carrier


def _as_text(carrier: dict[str, str]) -> str:
    return json.dumps(carrier, separators=(",", ":"))


def parted(stored: str) -> tuple[str, dict[str, str]]:
    """The payload as it is stored, without the carrier; and the carrier."""
    payload, separator, line = stored.partition("\n")
    if not separator:
        return stored, {}
    with suppress(ValueError):
        carrier = json.loads(line)
        if isinstance(carrier, dict):
            return payload, carrier
    return payload, {}


@contextmanager
def observed(
    observers: Iterable[JobObserver], attempt: JobAttempt, carrier: Mapping[str, str]
) -> Iterator[None]:
    """The context managers of all observers, the first one outermost."""
    with ExitStack() as stack:
        for observer in observers:
            stack.enter_context(_Harmless(observer, attempt, carrier))
        yield


def flush(observers: Iterable[JobObserver]) -> None:
    """Have them send what is left to send, as the process ends at once."""
    for observer in observers:
        try:
            observer.flush()
        except Exception as error:
            _complain(observer, "flush", error)


class _Harmless:
    """What an observer has around an attempt, but for what that raises itself."""

    def __init__(
        self, observer: JobObserver, attempt: JobAttempt, carrier: Mapping[str, str]
    ) -> None:
        self._observer = observer
        self._given = attempt, carrier
        self._manager: AbstractContextManager[object] | None = None

    def __enter__(self) -> None:
        try:
            manager = self._observer.attempting(*self._given)
            manager.__enter__()
            self._manager = manager
        except Exception as error:
            _complain(self._observer, "attempting", error)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._manager is None:
            return
        try:
            self._manager.__exit__(kind, error, trace)
        except Exception as raised:
            if raised is not error:
                _complain(self._observer, "attempting", raised)


def _complain(observer: JobObserver, method: str, error: Exception) -> None:
    kind = type(observer).__qualname__
    if _told.is_new(f"{kind}.{method}"):
        report.failure(
            error, "the observer %s raised in %s(); the jobs are not affected, and "
            "this is logged once", kind, method,
        )  # fmt: skip
