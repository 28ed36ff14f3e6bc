"""mod_wsgi, in Apache or in a daemon process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .server import Server

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


class ModWsgi(Server):
    """It calls ``close()`` (wsgi_adapter.c, Adapter_run) before Apache sends the end of
    the body, or a head without a body."""

    def would_wait(self, environ: WSGIEnvironment) -> bool:
        return True

    def file_inside(
        self, environ: WSGIEnvironment, body: Any, headers: list[tuple[str, str]]
    ) -> tuple[Any, ...]:
        return getattr(body, "filelike", None), body.blksize


MOD_WSGI = ModWsgi()
