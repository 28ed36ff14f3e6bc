"""bjoern, which has one thread for everything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .server import FileClass, WaitingServer

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


class NotingWrapper(FileClass):
    """Wraps the server's file wrapper and remembers the arguments of the last file.

    For bjoern, whose FileWrapper is in C, takes no attribute, and hides the file. The
    app gets objects of the server's own class.
    """

    def __init__(self, kind: Any) -> None:
        self._kind = kind
        self._last: tuple[object, tuple[Any, ...]] = (None, ())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        body = self._kind(*args, **kwargs)
        self._last = (body, args)
        return body

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self._kind)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kind, name)

    def made_of(self, body: object) -> tuple[Any, ...]:
        """The arguments that made the body, if it was the last one."""
        last, self._last = self._last, (None, ())
        return last[1] if last[0] is body else ()


def note_files(environ: WSGIEnvironment) -> None:
    """Remember what the app makes with bjoern's ``wsgi.file_wrapper``."""
    kind: Any = environ.get("wsgi.file_wrapper")
    if (
        type(kind) is type
        and kind.__name__ == "FileWrapper"
        and kind.__module__ == "builtins"  # in C, and without a module's name
    ):
        environ["wsgi.file_wrapper"] = NotingWrapper(kind)


class Bjoern(WaitingServer):
    """It closes the connection before ``close()`` (request.c, Request_clean), but its
    only thread serves nobody meanwhile."""

    def file_inside(
        self, environ: WSGIEnvironment, body: Any, headers: list[tuple[str, str]]
    ) -> tuple[Any, ...]:
        """Nothing without a Content-Length: bjoern would then send the file without any
        framing (server.c, ev_io_on_write)."""
        wrapper = environ.get("wsgi.file_wrapper")
        if not isinstance(wrapper, NotingWrapper):
            return ()
        made_of = wrapper.made_of(body)
        has_length = any(name.lower() == "content-length" for name, _ in headers)
        return made_of if has_length else ()


BJOERN = Bjoern()
