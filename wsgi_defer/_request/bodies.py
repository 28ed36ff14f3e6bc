"""The bodies that the server gets: how the end of a response is noticed everywhere.

Each leads to the end of the exchange when the server closes it. None reads ahead, and
none is a list: granian and bjoern never close a list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from contextvars import Token
from functools import cache, partial
from itertools import chain, count
from types import GeneratorType
from typing import Any, Protocol

from .._calls.scope import Scope, enter, get_current, leave

_END: Any = object()
CLOSED: Iterator[bytes] = iter(())


class Ending(Protocol):
    """The exchange that a body is for, as the body sees it."""

    started: bool
    registered: int
    complete: bool
    ended: bool
    was_dropped: bool
    steps: Iterator[bytes]

    def begin(self) -> Iterable[bytes] | None:
        """The first item is about to leave. Returns a body to send instead of it."""

    def note_complete(self) -> None:
        """The server has taken the last item. Returns None, as no other item does."""

    def note_incomplete(self) -> None:
        """The server may stop early."""

    def note_dropped(self) -> None:
        """The body is dropped, not closed."""

    def dropped(self) -> None:
        """The body is dropped, not closed: see that the calls run all the same."""

    def app_failed(self, error: BaseException) -> None:
        """The app's body raised ``error``, and the server is about to see it."""

    def end_response(self, close: Callable[[], object] | None) -> None:
        """Close the app's body by its own ``close()``, and run the calls."""

    def end_once(self, close: Callable[[], object] | None) -> None:
        """As ``end_response()``, the first time."""

    def close(self) -> None:
        """What ends a body that is stepped through."""


class Steps(chain[bytes]):
    """What ``iter()`` gives of a body. Its ``close()`` is the body's, for a middleware
    that has closed, and kept, nothing but this.

    It steps in C, as a generator does.
    """

    __slots__ = ("close",)

    close: Callable[[], object]


def steps_of(body: Any, steps: Iterable[bytes]) -> Steps:
    """Give the steps the ``close()`` of their body, which lives as long as they do."""
    closing = Steps(steps)
    closing.close = body.close
    return closing


class ProxyBody:
    """A stream that shows the other attributes of the app's body, such as those of a
    framework's response.

    Not the exchange itself: its own attributes must not show, and ``__getattr__`` makes
    every attribute of its class slower.
    """

    def __init__(self, exchange: Ending, inner: Any) -> None:
        self._exchange = exchange
        self._inner = inner

    def __iter__(self) -> Iterator[bytes]:
        return steps_of(self, self._exchange.steps)

    def __next__(self) -> bytes:
        return next(self._exchange.steps)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._inner, name)

    def close(self) -> None:
        self._exchange.close()

    def __del__(self) -> None:
        if not self._exchange.ended:
            self._exchange.dropped()


class SizedBody:
    """A finished body: servers may ask for its length, and may iterate twice.

    ``owner`` is the app's body, if ``chunks`` is sent in place of it.
    """

    def __init__(self, exchange: Ending, chunks: Any, owner: Any = None) -> None:
        self._exchange = exchange
        self._chunks = chunks
        self._owner = chunks if owner is None else owner
        self._steps: Iterator[bytes] = CLOSED

    def __len__(self) -> int:
        return len(self._chunks)

    def __iter__(self) -> Iterator[bytes]:
        if isinstance(self._chunks, (list, tuple)):
            # Nothing comes after the last one, but being asked for it says that all
            # were taken. This is C, as each response with calls pays for it.
            asked: Iterator[bytes] = iter(self._exchange.note_complete, None)
            steps = Steps(self._chunks, asked)
            steps.close = self.close
            return steps
        self._steps = step_through(self._chunks, self._exchange)  # code of the app
        return steps_of(self, self._steps)

    def __getitem__(self, index: Any) -> Any:
        return self._chunks[index]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._chunks, name)

    def close(self) -> None:
        exchange, owner = self._exchange, self._owner
        if exchange.ended:
            return
        exchange.ended = True
        if not exchange.complete:
            close_steps(self._steps)
        self._chunks = self._owner = ()
        exchange.end_response(getattr(owner, "close", None))

    def __del__(self) -> None:
        if self._exchange.registered and not self._exchange.ended:
            self._exchange.note_dropped()
            self.close()


class HookedFile:
    """A file with our ``close()``, for a server's file wrapper that has it in C.

    The server asks for its descriptor, and gives that to the kernel.
    """

    def __init__(self, exchange: Ending, file: Any, end: Callable[[], None]):
        self._exchange = exchange
        self._file = file
        self.close = end

    def read(self, *size: Any) -> Any:
        self._exchange.note_incomplete()  # the server reads it, and may stop early
        data = self._file.read(*size)
        if not data:
            self._exchange.note_complete()
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def hook_close(exchange: Ending, body: Any, made_of: tuple[Any, ...]) -> Any:
    """Put the end of the exchange in place of the ``close`` of a server's file wrapper.

    The object stays what it is, so the server still sends it with sendfile. An object
    of a class in C takes no attribute; then ``made_of`` has the file and the block size
    to make another one. Returns the body for the server; None if there is no way.
    """
    end = partial(exchange.end_once, getattr(body, "close", None))
    try:
        body.close = end
    except (AttributeError, TypeError):
        if not made_of or not _has_descriptor(made_of[0]):
            return None
        body = type(body)(HookedFile(exchange, made_of[0], end), *made_of[1:])
    else:
        if not hasattr(type(body), "__iter__"):  # gunicorn's, up to 23
            body.__class__ = _with_iter(type(body))  # type: ignore[arg-type]
    exchange.note_complete()  # unless an exception is on its way when it closes
    return body


@cache
def _with_iter(kind: Any) -> Any:
    """The class, with an ``__iter__`` whose steps have the ``close()`` of the body.

    A subclass, so that the server still knows the body as its own.
    """

    def __iter__(self: Any) -> Iterator[bytes]:  # noqa: N807
        return steps_of(self, _items(self))

    return type(kind.__name__, (kind,), {"__iter__": __iter__})


def _items(body: Any) -> Iterator[bytes]:
    with suppress(IndexError):  # the last one
        yield from map(body.__getitem__, count())


def _has_descriptor(file: Any) -> bool:
    try:
        return bool(file.fileno() >= 0)
    except Exception:  # a file of the app's own, such as BytesIO
        return False


def is_body(body: object) -> bool:
    """Tell a WSGI body from what servers reject: None, text, a number.

    Not by ``__iter__`` alone: gunicorn's file wrapper has none up to 23.
    """
    kind = type(body)
    return not isinstance(body, (str, bytes)) and (
        hasattr(kind, "__iter__") or hasattr(kind, "__getitem__")
    )


def step_through(inner: Iterable[bytes], exchange: Any) -> Iterator[bytes]:
    """Take one step of the app's body for each of the server's, inside the scope.

    ``exchange`` is an ``Ending``, and the scope.
    """
    staying: Token[Scope | None] | None = None
    rest: Iterator[bytes] = CLOSED
    try:
        token = enter(exchange)
        try:
            rest = iter(inner)
            item = next(rest, _END)
            # An app may call start_response as late as in its first step.
            if not exchange.started and (instead := exchange.begin()) is not None:
                rest = iter(instead)
                item = next(rest, _END)
        finally:
            leave(token)
        while item is not _END:
            yield item
            if staying is None and get_current() is None:
                # The context is nobody else's. From the second step to the last, the
                # scope stays current, so that the steps in between cost nothing.
                staying = enter(exchange)
                for item in rest:
                    yield item
                    if get_current() is not exchange:
                        break
                else:
                    break
            # Inside another request's scope, or beside it on a server that steps
            # through several responses in turn, such as bjoern.
            item = _step(rest, exchange)
        exchange.note_complete()
    except GeneratorExit:
        if not exchange.ended:  # exchange.close() has not led here
            exchange.dropped()
        if exchange.was_dropped:
            staying = None
        elif rest is not inner:  # an iterator of the app's that nobody else closes
            _close_inside(rest, exchange)
        raise
    except BaseException as error:
        exchange.app_failed(error)
        raise
    finally:
        if staying is not None and get_current() is exchange:
            try:
                leave(staying)
            except ValueError:  # the server went on in another context
                enter(None)


def _step(rest: Iterator[bytes], scope: Scope) -> bytes:
    token = enter(scope)
    try:
        return next(rest, _END)
    finally:
        leave(token)


def _close_inside(rest: Iterator[bytes], scope: Scope) -> None:
    close = getattr(rest, "close", None)
    if close is not None:
        token = enter(scope)
        try:
            close()
        finally:
            leave(token)


def close_steps(steps: Iterator[bytes]) -> None:
    """Close what steps through the app's body, if that is a generator of ours."""
    if isinstance(steps, GeneratorType):
        with suppress(ValueError):  # its own step closes it
            steps.close()
