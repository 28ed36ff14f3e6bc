"""The bodies handed to the server: how the end of a response is noticed everywhere.

Each leads to ``ResponseScope.finish()`` when the server closes it. None reads ahead,
and none is a list: granian and bjoern never close a list.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from contextvars import Token
from functools import partial
from types import GeneratorType
from typing import Any

from ._scope import Scope, enter, get_current, leave

_END: Any = object()
_CLOSED: Iterator[bytes] = iter(())


class ResponseScope(Scope):
    """A request's scope that is also the body of its response.

    It steps through the app's iterable one to one, each step inside the scope. One
    object for both, because one is made for every request; and a class, because the
    end of a generator that is closed early, or was never begun, would be lost.
    """

    answers = True
    status: str | None = None  # as the app gave it
    complete = False  # the server has taken the last item
    handled: BaseException | None = None  # what was being handled when it did
    _elsewhere = False  # the calls must not run in the thread that closes the body
    _dropped = False
    _ended = False
    _inner: Any = ()
    _steps: Iterator[bytes] = _CLOSED

    def stream(self, inner: Any) -> ResponseScope | ProxyBody | SizedBody:
        """Take the app's body; return what shows the server all that it shows."""
        if self.status is not None:
            self.started = True
        generator = type(inner) is GeneratorType
        if not generator and hasattr(type(inner), "__len__"):
            return SizedBody(self, inner)
        self._inner = inner
        self._steps = _step_through(inner, self)
        return self if generator else ProxyBody(self, inner)

    def begin(self) -> Iterable[bytes] | None:
        """The first item is about to leave. Returns a body to send instead of it."""
        raise NotImplementedError

    def fail(self, error: BaseException) -> None:
        """The app's body raised ``error``, and the server is about to see it."""
        raise NotImplementedError

    def finish(self, close: Callable[[], object] | None) -> None:
        """Run the app's own ``close()``, and then the calls."""
        raise NotImplementedError

    def end(self, close: Callable[[], object] | None) -> None:
        """The server is done with the body; ``close`` is the app's own."""
        if not self._ended:
            self._ended = True
            self.finish(close)

    def note_complete(self) -> None:
        """The server has taken the last item, and does not fail so far."""
        self.complete = True
        if self.registered:
            self.handled = sys.exc_info()[1]

    def dropped(self) -> None:
        """The body is dropped, not closed, which is a server's fault.

        The collector of garbage may be at work, in any thread and at any line, even
        inside a context variable: one that is set in there can crash CPython, and
        nothing of the app's belongs there. So all the rest is for the background.
        """
        if self._ended:
            # Whoever was to run the calls has dropped them; unless the body was dropped
            # with this scope, and has just handed it to the background.
            if not self._dropped:
                super().dropped()
            return
        self._dropped = True
        if self.registered or self._guests:
            self.close()
        else:
            self.closed = True

    def __iter__(self) -> Iterator[bytes]:
        return self._steps

    def __next__(self) -> bytes:
        return next(self._steps)

    def close(self) -> None:
        if self._ended:
            return
        self._ended = True
        steps, self._steps = self._steps, _CLOSED
        inner, self._inner = self._inner, ()
        if not self.complete:
            _close_steps(steps)
        elif type(inner) is GeneratorType and inner.gi_frame is None:
            self.finish(None)  # it has ended, so its close() does nothing
            return
        self.finish(getattr(inner, "close", None))


class ProxyBody:
    """A stream whose other attributes show through, as a framework's response has.

    Apart from ResponseScope because those of a scope must not, and because
    ``__getattr__`` makes every attribute of its class slower.
    """

    def __init__(self, scope: ResponseScope, inner: Any) -> None:
        self._scope = scope
        self._inner = inner

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._scope)

    def __next__(self) -> bytes:
        return next(self._scope)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._inner, name)

    def close(self) -> None:
        self._scope.close()

    def __del__(self) -> None:
        if not self._scope._ended:
            self._scope.dropped()


class SizedBody:
    """A finished body, whose length servers may ask for, and may iterate twice.

    ``owner`` is the app's body, if ``chunks`` is sent in place of it.
    """

    def __init__(self, scope: ResponseScope, chunks: Any, owner: Any = None) -> None:
        self._scope = scope
        self._chunks = chunks
        self._owner = chunks if owner is None else owner
        self._steps: Iterator[bytes] = _CLOSED

    def __len__(self) -> int:
        return len(self._chunks)

    def __iter__(self) -> Iterator[bytes]:
        if isinstance(self._chunks, (list, tuple)):
            return self._iterate()
        self._steps = _step_through(self._chunks, self._scope)  # code of the app
        return self._steps

    def _iterate(self) -> Iterator[bytes]:
        yield from self._chunks
        self._scope.note_complete()

    def __getitem__(self, index: Any) -> Any:
        return self._chunks[index]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._chunks, name)

    def close(self) -> None:
        scope, owner = self._scope, self._owner
        if scope._ended:
            return
        scope._ended = True
        if not scope.complete:
            _close_steps(self._steps)
        self._chunks = self._owner = ()
        scope.finish(getattr(owner, "close", None))

    def __del__(self) -> None:
        if self._scope.registered and not self._scope._ended:
            self._scope._dropped = True
            self.close()


class HookedFile:
    """A file with our ``close()``, for a server's file wrapper that has it in C.

    The server asks for its descriptor, and gives that to the kernel.
    """

    def __init__(self, scope: ResponseScope, file: Any, end: Callable[[], None]):
        self._scope = scope
        self._file = file
        self.close = end

    def read(self, *size: Any) -> Any:
        self._scope.complete = False  # so the server reads it, and may stop early
        data = self._file.read(*size)
        if not data:
            self._scope.note_complete()
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def hook_close(scope: ResponseScope, body: Any, made_of: tuple[Any, ...]) -> Any:
    """Put ``scope.end`` in place of the ``close`` of a server's file wrapper.

    The object stays what it is, so the server still sends it with sendfile. One of a
    class in C takes no attribute: ``made_of`` has the file and the block size, for
    another one around them. Returns the body for the server; None if there is no way.
    """
    end = partial(scope.end, getattr(body, "close", None))
    try:
        body.close = end
    except (AttributeError, TypeError):
        if not made_of or not _has_descriptor(made_of[0]):
            return None
        body = type(body)(HookedFile(scope, made_of[0], end), *made_of[1:])
    scope.note_complete()  # unless an exception is on its way when it closes
    return body


def _has_descriptor(file: Any) -> bool:
    try:
        return bool(file.fileno() >= 0)
    except Exception:  # a file of the app's own, such as BytesIO
        return False


def is_body(body: object) -> bool:
    """Tell a WSGI body from what servers reject: None, text, a number.

    Not by ``__iter__`` alone: gunicorn's file wrapper had none up to 23.
    """
    kind = type(body)
    return not isinstance(body, (str, bytes)) and (
        hasattr(kind, "__iter__") or hasattr(kind, "__getitem__")
    )


def _step_through(inner: Iterable[bytes], scope: ResponseScope) -> Iterator[bytes]:
    staying: Token[Scope | None] | None = None
    rest: Iterator[bytes] = _CLOSED
    try:
        token = enter(scope)
        try:
            rest = iter(inner)
            item = next(rest, _END)
            # An app may call start_response as late as in its first step.
            if not scope.started and (instead := scope.begin()) is not None:
                rest = iter(instead)
                item = next(rest, _END)
        finally:
            leave(token)
        while item is not _END:
            yield item
            if staying is None and get_current() is None:
                # Nobody else's context. From the second step to the last, the scope
                # stays current, so that the steps between cost nothing.
                staying = enter(scope)
                for item in rest:
                    yield item
                    if get_current() is not scope:
                        break
                else:
                    break
            # Inside another request's scope, or beside it on a server that steps
            # through several responses in turn, such as bjoern.
            item = _step(rest, scope)
        scope.note_complete()
    except GeneratorExit:
        if not scope._ended:  # scope.close() has not led here
            scope.dropped()
        if scope._dropped:
            staying = None
        elif rest is not inner:  # an iterator of the app's that nobody else closes
            _close_inside(rest, scope)
        raise
    except BaseException as error:
        scope.fail(error)
        raise
    finally:
        if staying is not None and get_current() is scope:
            _leave_late(staying)


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


def _close_steps(steps: Iterator[bytes]) -> None:
    if isinstance(steps, GeneratorType):
        with suppress(ValueError):  # closed by its own step
            steps.close()


def _leave_late(token: Token[Scope | None]) -> None:
    try:
        leave(token)
    except ValueError:  # the server went on in another context
        enter(None)
