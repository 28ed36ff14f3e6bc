"""uWSGI, and its hook for what comes after a request."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..background import Drain
from .handover import run_drains
from .server import Server

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


class Hook:
    """uWSGI calls ``uwsgi.after_req_hook`` when it has closed the connection, in the
    thread of the request (core/utils.c, uwsgi_close_request).

    It looks for the hook once, when it has imported the app, and with --mount too
    early. So the hook is used only once it was seen to be called.
    """

    works = False
    _placed = False
    _before: object = None  # a hook of the app's

    def __init__(self) -> None:
        self._handed_over = threading.local()

    def place(self) -> None:
        """Put it where uWSGI looks for it. No effect under other servers."""
        uwsgi = sys.modules.get("uwsgi")
        if uwsgi is None or self._placed:
            return
        options = getattr(uwsgi, "opt", {})
        if "http11-socket" in options or b"http11-socket" in options:
            return  # it keeps the connection, and the next request would wait
        self._before = getattr(uwsgi, "after_req_hook", None)
        uwsgi.after_req_hook = self  # type: ignore[attr-defined]
        self._placed = True

    def take(self, drain: Drain) -> None:
        """Run it when the connection of this thread's request is closed."""
        self._handed_over.__dict__.setdefault("drains", []).append(drain)

    def __call__(self) -> None:
        self.works = True
        try:
            if callable(self._before):
                self._before()
        finally:
            run_drains(self._handed_over.__dict__.get("drains", []))


HOOK = Hook()


class Uwsgi(Server):
    """It closes the connection after ``close()``, and sends the head of a response
    without a body even later (plugins/python/wsgi_subhandler.c; core/utils.c,
    uwsgi_close_request)."""

    def taker(self, environ: WSGIEnvironment) -> Callable[[Drain], object] | None:
        return HOOK.take if HOOK.works else None

    def would_wait(self, environ: WSGIEnvironment) -> bool:
        """Everybody, where there is no hook."""
        return not HOOK.works


UWSGI = Uwsgi()
