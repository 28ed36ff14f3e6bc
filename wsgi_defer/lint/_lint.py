"""A middleware that raises where an app or a server breaks a rule of
``docs/response_finished.md``."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import ref

from .._runtime import report

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

KEY = "wsgi.response_finished"


class LintError(AssertionError):
    """An app or a server breaks a rule of ``wsgi.response_finished``.

    An ``AssertionError``, as ``wsgiref.validate`` raises.
    """


class Lint:
    """Check the app inside of it, and the server or middleware outside of it.

    What the app does wrong is raised where it is noticed: after the call of the app, a
    step of its body, or its ``close()``. What the server does wrong is raised in the
    callable that it calls, so a good server logs it. All errors are in ``errors``, too,
    for a test to look at. That the server has never called the callables is noticed
    when it drops the environ; that is logged, and added to ``errors``.

    For development and tests: the body is wrapped, so that no server sees a list or a
    file in it. An error names the rule of ``docs/response_finished.md``.
    """

    def __init__(self, app: WSGIApplication) -> None:
        self.app = app
        self.errors: list[LintError] = []

    def __call__(
        self, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        if KEY not in environ:
            return self.app(environ, start_response)
        request = _Request(self.errors)
        look = partial(request.look, environ, request.take_list(environ))
        try:
            body = self.app(environ, start_response)
        except BaseException:
            request.closed = True
            raise
        try:
            look()
        except LintError:
            request.closed = True
            with suppress(Exception):
                getattr(body, "close", lambda: None)()
            raise
        return _Body(body, request, look)


class _Request:
    """What has become of the entries of one list.

    It leads neither to the environ nor to the list: when the server has dropped these,
    it is dropped, too.
    """

    def __init__(self, errors: list[LintError]) -> None:
        self.errors = errors
        self.closed = False  # the response has ended for the app
        self.entries: list[ref[_Entry]] = []  # those that the list should have
        self.called: list[bool] = []  # whether each was
        self.list_id = 0

    def take_list(self, environ: WSGIEnvironment) -> Any:
        """The list, with an entry of our own, so that something is called."""
        finished = environ[KEY]
        if not isinstance(finished, list):
            self.fail(1, f"environ[{KEY!r}] is {_kind(finished)}, not a list")
        self.list_id = id(finished)
        self.check_entries(finished)
        finished.append(_notice)
        self.replace_entries(finished)
        return finished

    def fail(self, rule: int, message: str) -> None:
        """Raise it, and note it. ``rule`` is its number in the specification."""
        error = LintError(f"{message} (docs/response_finished.md, {rule})")
        self.errors.append(error)
        raise error

    def look(self, environ: WSGIEnvironment, finished: list[Any]) -> None:
        """See what the app has done to the list."""
        if environ.get(KEY) is not finished:
            self.fail(2, f"the app has replaced the list in environ[{KEY!r}]")
        if any(self.called):
            return  # the server may have taken them out
        count = len(self.entries)
        if [id(each) for each in finished[:count]] != [
            id(entry()) for entry in self.entries
        ]:
            self.fail(2, "the app has removed or moved what others had put in the list")
        self.check_entries(finished[count:])
        self.replace_entries(finished)

    def check_entries(self, entries: list[Any]) -> None:
        """Refuse what the server could not call."""
        for entry in entries:
            if not callable(entry):
                self.fail(5, f"{_kind(entry)} is in the list, and cannot be called")
            if not _takes_four(entry):
                name = report.qualified_name(entry)
                self.fail(
                    5,
                    f"{name} is in the list, and does not take (environ, status, "
                    "headers, error)",
                )

    def replace_entries(self, finished: list[Any]) -> None:
        """Put what checks its call in place of each new one."""
        for number in range(len(self.entries), len(finished)):
            entry = finished[number] = _Entry(self, number, finished[number])
            self.entries.append(ref(entry))
            self.called.append(False)

    def check_call(self, entry: _Entry, args: tuple[Any, ...]) -> None:
        """Check what the server does, as it calls that one."""
        name = report.qualified_name(entry.fn)
        if not self.closed:
            self.fail(9, f"{name} was called before the body was closed")
        if self.called[entry.number]:
            self.fail(6, f"{name} was called twice")
        self.called[entry.number] = True
        if not all(self.called[entry.number :]):
            self.fail(7, f"{name} was called before one that was appended after it")
        if len(args) != 4:
            self.fail(5, f"{name} was called with {len(args)} arguments, not 4")
        environ, status, headers, error = args
        if not isinstance(environ, dict) or id(environ.get(KEY)) != self.list_id:
            self.fail(5, f"{name} was not called with the environ of the request")
        if status is not None and not _is_status(status):
            self.fail(
                5, f"the status must be a line as '200 OK', or None, not {status!r:.60}"
            )
        if headers is not None and not _are_headers(headers):
            self.fail(5, "the headers must be a list of tuples of two str, or None")
        if error is not None and not isinstance(error, BaseException):
            self.fail(5, f"the error must be an exception or None, not {_kind(error)}")
        if (status is None) is not (headers is None):
            self.fail(5, "the status is None and the headers are not, or vice versa")

    def __del__(self) -> None:
        if self.closed and self.entries and not any(self.called):
            message = f"the server has dropped environ[{KEY!r}], and called nothing"
            self.errors.append(LintError(f"{message} (docs/response_finished.md, 6)"))
            report.log(logging.ERROR, "lint: %s", message)


class _Entry:
    """Stands in the list for a callable."""

    def __init__(self, request: _Request, number: int, fn: Callable[..., Any]) -> None:
        self.request = request
        self.number = number
        self.fn = fn

    def __call__(self, *args: Any) -> None:
        self.request.check_call(self, args)
        self.fn(*args)


class _Notice:
    """The entry of lint itself, so that one is called in every request."""

    __qualname__ = "an entry of lint's own"
    __module__ = ""

    def __call__(self, *args: Any) -> None:
        pass


class _Body:
    """The app's body; the list is looked at after each step of it."""

    def __init__(
        self,
        inner: Iterable[bytes],
        request: _Request,
        look: Callable[[], None],
    ) -> None:
        self._inner = inner
        self._request = request
        self._look = look
        self._steps: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._steps is None:
            self._steps = iter(self._inner)
        try:
            return next(self._steps)
        finally:
            self._look()

    def close(self) -> None:
        try:
            getattr(self._inner, "close", lambda: None)()
        finally:
            self._request.closed = True
        self._look()


_notice = _Notice()


def _kind(value: object) -> str:
    return type(value).__name__


def _takes_four(fn: Callable[..., Any]) -> bool:
    try:
        inspect.signature(fn).bind(None, None, None, None)
    except ValueError:  # it is in C, and does not tell
        return True
    except TypeError:
        return False
    return True


def _is_status(status: object) -> bool:
    return (
        isinstance(status, str) and status[:3].isdigit() and status[:1] != "0"
    ) and status[3:4] in ("", " ")


def _are_headers(headers: object) -> bool:
    return isinstance(headers, list) and all(
        isinstance(each, tuple)
        and len(each) == 2
        and isinstance(each[0], str)
        and isinstance(each[1], str)
        for each in headers
    )
