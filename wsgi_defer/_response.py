"""The bodies handed to the server: how the end of a response is noticed everywhere.

Each leads to ``ResponseScope.end()`` when the server closes it. None reads ahead, and
none is a list: granian and bjoern never close a list.
"""

from __future__ import annotations

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

    status: str | None = None  # as the app gave it
    complete = False  # the server has taken the last item
    _elsewhere = False  # the calls must not run in the thread that closes the body
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

    def end(self, close: Callable[[], object] | None) -> None:
        """The server is done with the body; ``close`` is the app's own. Once only."""
        raise NotImplementedError

    def drop(self) -> None:
        """The body is dropped, not closed: a server's fault, and maybe the collector
        of garbage is at work, so it must not wait for the calls."""
        if self._steps is not _CLOSED:
            self._elsewhere = True
            self.close()

    def __iter__(self) -> Iterator[bytes]:
        return self._steps

    def __next__(self) -> bytes:
        return next(self._steps)

    def close(self) -> None:
        steps, self._steps = self._steps, _CLOSED
        inner, self._inner = self._inner, ()
        if not self.complete and isinstance(steps, GeneratorType):
            with suppress(ValueError):  # closed by its own step
                steps.close()
        elif type(inner) is GeneratorType and inner.gi_frame is None:
            self.end(None)  # it has ended, so its close() does nothing
            return
        self.end(getattr(inner, "close", None))


class ProxyBody:
    """A stream whose other attributes show through, as a framework's response has.

    Apart from ResponseScope because those of a scope must not, and because
    ``__getattr__`` makes every attribute of its class slower.
    """

    __slots__ = ("__weakref__", "_inner", "_scope")

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
        self._inner = None
        self._scope.close()


class SizedBody:
    """A finished body, whose length servers may ask for, and may iterate twice.

    ``owner`` is the app's body, if ``chunks`` is sent in place of it.
    """

    __slots__ = ("__weakref__", "_chunks", "_owner", "_scope")

    def __init__(self, scope: ResponseScope, chunks: Any, owner: Any = None) -> None:
        self._scope = scope
        self._chunks = chunks
        self._owner = chunks if owner is None else owner

    def __len__(self) -> int:
        return len(self._chunks)

    def __iter__(self) -> Iterator[bytes]:
        if isinstance(self._chunks, (list, tuple)):
            return self._iterate()
        return _step_through(self._chunks, self._scope)  # it is code of the app

    def _iterate(self) -> Iterator[bytes]:
        yield from self._chunks
        self._scope.complete = True

    def __getitem__(self, index: Any) -> Any:
        return self._chunks[index]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._chunks, name)

    def close(self) -> None:
        owner, self._owner, self._chunks = self._owner, None, ()
        self._scope.end(getattr(owner, "close", None))

    def __del__(self) -> None:
        if self._owner is not None:
            self._scope._elsewhere = True
            self.close()


def hook_close(scope: ResponseScope, body: Any) -> bool:
    """Put ``scope.end`` in place of the ``close`` of a server's file wrapper.

    The object stays what it is, so the server still sends it with sendfile. Returns
    False for a class whose instances take no attribute.
    """
    end = partial(scope.end, getattr(body, "close", None))
    try:
        body.close = end
    except (AttributeError, TypeError):
        return False
    scope.complete = True  # unless an exception is on its way when it closes
    return True


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
        scope.complete = True
    except GeneratorExit:
        scope.drop()  # no effect if scope.close() did this
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


def _leave_late(token: Token[Scope | None]) -> None:
    try:
        leave(token)
    except ValueError:  # the server went on in another context
        enter(None)
