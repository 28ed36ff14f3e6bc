"""A call, as a test sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .._calls.call import Call
from .._calls.outcome import Outcome
from .._runtime.report import qualified_name


@dataclass(frozen=True, repr=False)
class CallRecord:
    """A call, and what became of it.

    ``name`` is the one given with ``named()``, if any. ``became`` is "captured",
    "finished", "failed", "skipped" or "lost"; "pending" if nothing is known yet.
    ``outcome`` is how its response ended, ``why`` the reason if it did not run,
    ``value`` what it returned, and ``error`` what it raised. ``kind`` is "deferred" or
    "before_response", and ``origin`` the line that registered it.
    """

    fn: Callable[..., object]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    name: str | None = None
    outcome: Outcome | None = None
    became: str = "pending"
    why: str | None = None
    value: Any = None
    error: BaseException | None = None
    kind: str = "deferred"
    origin: str = field(default="", compare=False)

    @classmethod
    def of(cls, call: Call) -> CallRecord:
        """Of a call that has not started: a call that has lets go of its arguments."""
        args, kwargs = call._arguments
        return cls(call._fn, args, dict(kwargs), kind=call.kind, origin=call.origin)

    def __repr__(self) -> str:
        why = f": {self.why}" if self.why else ""
        return f"<{self.text} {self.became}{why}>"

    @property
    def text(self) -> str:
        """The call as a line of code, with its arguments."""
        return as_code(self.fn, self.args, self.kwargs, self.name)


def as_code(
    fn: Callable[..., object],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    name: str | None = None,
) -> str:
    """The call as a line of code."""
    given = [shown(each) for each in args]
    given += [f"{key}={shown(value)}" for key, value in kwargs.items()]
    code = f"{qualified_name(fn)}({', '.join(given)})"
    return code if name is None else f"{code} named {name!r}"


def shown(value: object) -> str:
    """Its ``repr()``; objects whose ``repr()`` raises are shown by their type."""
    try:
        return repr(value)
    except Exception as error:
        return f"<{type(value).__name__}, whose repr() raised {type(error).__name__}>"
