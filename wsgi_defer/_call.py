"""One call that waits for its moment, and the options on it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractContextManager
from contextvars import Context, copy_context
from time import monotonic
from types import CodeType, CoroutineType, FrameType
from typing import Any, TypeVar

from ._outcome import Outcome

# What is opened around a call and closed after it, such as a database session.
Around = Callable[[], AbstractContextManager[object]]
C = TypeVar("C", bound="Call")  # typing.Self is 3.11
_NO_KWARGS: Mapping[str, Any] = {}


class Call:
    """A function with its arguments, held until its moment comes.

    It remembers the ``contextvars`` context and the line that registered it. The
    options return the call, so that they chain; they are for the thread that
    registered it.
    """

    kind = "before_response"  # the function that registers such calls
    _name: str | None = None
    _changed: Callable[[Call], object] | None = None  # who hears of name and cancel()
    _started_at: float | None = None
    _ended_at: float | None = None
    _open = False  # the observers do not know its end

    def __init__(
        self,
        fn: Callable[..., object],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        registered_by: FrameType,
    ) -> None:
        self._fn = fn
        self._args = args
        self._kwargs = kwargs
        self._context: Context | None = copy_context()
        # Not the frame itself, which would keep the view's locals alive; and not its
        # line number, which costs more than all the rest and is seldom asked for.
        self._code: CodeType = registered_by.f_code
        self._instruction: int = registered_by.f_lasti
        self._queued_at = monotonic()
        self._open = True

    @property
    def name(self) -> str | None:
        """The name given with ``named()``, if any."""
        return self._name

    @property
    def label(self) -> str:
        """What logs call it: the given name, else the function's. Never arguments."""
        return self._name or qualified_name(self._fn)

    @property
    def origin(self) -> str:
        """The file and line that registered it, as ``file:line``."""
        line = self._code.co_firstlineno
        for start, end, number in self._code.co_lines():
            if start <= self._instruction < end and number is not None:
                line = number
        return f"{self._code.co_filename}:{line}"

    @property
    def pending(self) -> bool:
        """True until the call has begun, or was skipped or cancelled."""
        return self._context is not None

    @property
    def waited(self) -> float:
        """Seconds from its registration to its begin, or until now."""
        began = self._started_at
        return (monotonic() if began is None else began) - self._queued_at

    @property
    def ran(self) -> float | None:
        """Seconds from its begin to its end, or until now; None before its begin."""
        if self._started_at is None:
            return None
        ended = self._ended_at
        return (monotonic() if ended is None else ended) - self._started_at

    def named(self: C, name: str) -> C:
        """Give it a name. Of the pending calls of one name, only the last runs."""
        self._name = name
        if self._changed is not None:
            self._changed(self)
        return self

    def cancel(self: C) -> C:
        """Do not run it. No effect once it has begun."""
        if self._context is not None:
            self._let_go()
            if self._changed is not None:
                self._changed(self)
        return self

    def _let_go(self) -> None:
        # A handle that the app keeps must not keep the request alive.
        self._context, self._args, self._kwargs = None, (), _NO_KWARGS

    def _claim_end(self) -> bool:
        """True for the first who asks, of any thread: it is to tell the end."""
        return self.__dict__.pop("_open", False) is True

    def run(self, around: Around | None) -> None:
        """Run it now, in its own context, and let go of its arguments.

        Raises what the function raises. A coroutine runs to its end.
        """
        context, fn, args, kwargs = self._context, self._fn, self._args, self._kwargs
        self._let_go()
        if context is None:
            return
        if around is not None:
            context.run(_complete_within, around, fn, args, kwargs)
            return
        result = context.run(fn, *args, **kwargs)
        if result is not None:
            context.run(_complete, result)


class DeferredCall(Call):
    """A call that runs after the response, if the response turns out as it wants.

    By default that is a status below 400 from an app that did not raise. What counts
    is the option that holds at the end, not when the call was registered.
    """

    kind = "deferred"
    _limit: float | None = None
    _predicate: Callable[[Outcome], object] | None = None

    def always(self) -> DeferredCall:
        """Run it whatever became of the response."""
        return self.when(_always)

    def on_failure(self) -> DeferredCall:
        """Run it only if the status is 400 or above, or the app raised."""
        return self.when(_not_ok)

    def when(self, predicate: Callable[[Outcome], object]) -> DeferredCall:
        """Run it only if ``predicate(outcome)`` is true, asked just before it would.

        A predicate that raises is logged, and the call is not run.
        """
        if not callable(predicate):
            kind = type(predicate).__name__
            raise TypeError(f"when() takes a function of the Outcome, not {kind}")
        self._predicate = predicate
        return self

    def time_limit(self, seconds: float) -> DeferredCall:
        """End it after ``seconds``, with ``TimeLimitError`` as its failure.

        It is ended on the main thread of the process, which is where gunicorn's sync
        worker runs it, and in gunicorn's gevent workers, there only while it waits.
        Not inside C code, not if the app uses ``SIGALRM`` itself, and not on other
        threads: there the log says that it runs on. The limit holds in place of the
        one of the middleware. Up to the limit, gunicorn does not take the worker for
        stuck, even if it is longer than gunicorn's ``timeout``. ``math.inf`` is none.
        """
        self._limit = check_seconds("time_limit", seconds)
        return self

    def wants(self, outcome: Outcome) -> bool:
        """Tell whether it is to run after such a response."""
        if self._predicate is None:
            return outcome.ok
        return bool(self._predicate(outcome))


def check_seconds(option: str, seconds: float) -> float:
    """Refuse what is not a time to wait."""
    if not seconds > 0:
        raise ValueError(f"{option} takes seconds, more than 0, not {seconds!r}")
    return seconds


def qualified_name(fn: object) -> str:
    """Name a callable for people: ``module.function``, never its ``repr()``.

    The ``repr()`` of a partial or a bound method would show arguments.
    """
    while isinstance(fn, functools.partial):
        fn = fn.func
    try:
        name, module = fn.__qualname__, fn.__module__  # type: ignore[attr-defined]
    except Exception:  # an instance with __call__, or a proxy without its object
        name, module = type(fn).__qualname__, type(fn).__module__
    return f"{module}.{name}" if module else str(name)


def _always(outcome: Outcome) -> bool:
    return True


def _not_ok(outcome: Outcome) -> bool:
    return not outcome.ok


def _complete(result: object) -> None:
    # The exact type first: the other one's test costs ten times as much.
    if isinstance(result, (CoroutineType, Coroutine)):
        from ._coroutine import run_to_end  # asyncio is 50 ms that most never need

        run_to_end(result)


def _complete_within(
    around: Around,
    fn: Callable[..., object],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> None:
    with around():
        _complete(fn(*args, **kwargs))
