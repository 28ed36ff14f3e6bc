"""What calls see of the body of their request: it belongs to the view."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import DeferError

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


class SpentInput:
    """The ``wsgi.input`` of a response that has ended.

    What is left of the body would be taken from the next request on the connection, or
    waited for in vain.
    """

    def read(self, *args: Any) -> NoReturn:
        raise DeferError(
            "a deferred call tried to read the request's body, which ends with the "
            "response: read it in the view, and give the call what it needs"
        )

    read1 = readinto = readline = readlines = __iter__ = __next__ = read


class GuardedInput:
    """An input that can be spent, for a server whose own must not be read later:
    uWSGI dies of that."""

    def __init__(self, server_input: Any) -> None:
        self._input = server_input

    # Methods of its own: frameworks such as Django keep them.

    def read(self, *args: Any) -> Any:
        return self._input.read(*args)

    def readline(self, *args: Any) -> Any:
        return self._input.readline(*args)

    def readlines(self, *args: Any) -> Any:
        return self._input.readlines(*args)

    def __iter__(self) -> Any:
        return iter(self._input)

    def __next__(self) -> Any:
        return next(self._input)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._input, name)

    def spend(self) -> None:
        """Raise at each attempt to read it from now on."""
        self._input = SpentInput()


def spend_input(environ: WSGIEnvironment) -> None:
    """Let nobody read the rest of the body; nobody can tell what the view has read."""
    if not has_body(environ):
        environ["wsgi.input"] = io.BytesIO()
        return
    environ["wsgi.input"] = SpentInput()
    spend_stream(environ.get("werkzeug.request"), environ)


def spend_stream(request: Any, environ: WSGIEnvironment) -> None:
    """Do so where a request of Werkzeug's keeps the stream that the view has used."""
    kept = getattr(request, "__dict__", {})
    if "stream" in kept and isinstance(environ.get("wsgi.input"), SpentInput):
        kept["stream"] = environ["wsgi.input"]


def has_body(environ: WSGIEnvironment) -> bool:
    """Whether the request may have a body."""
    if environ.get("CONTENT_LENGTH"):
        return bool(environ["CONTENT_LENGTH"] != "0")
    return "HTTP_TRANSFER_ENCODING" in environ or environ.get("REQUEST_METHOD") in (
        "POST",
        "PUT",
        "PATCH",
    )
