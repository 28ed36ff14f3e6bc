"""The options of the middleware, from ``WSGI_DEFER`` in the settings."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from typing import Any

from django.conf import settings

from .._calls.invoke import Around
from .._calls.options import Options
from .._request.middleware import DeferMiddleware
from ._connections import tended_connections


def options_of_settings() -> Options:
    """What ``WSGI_DEFER`` says. Raises ``TypeError`` and ``ValueError`` as
    ``wsgi_defer.DeferMiddleware`` does."""
    given: dict[str, Any] = dict(getattr(settings, "WSGI_DEFER", {}))
    given["around"] = around(given.get("around"))
    return DeferMiddleware(_no_app, **given).options


def around(inner: Around | None = None) -> Around:
    """What is opened around calls: the connections, and what the settings name."""
    if inner is None or not callable(inner):
        return tended_connections if inner is None else inner

    def both() -> AbstractContextManager[object]:
        stack = ExitStack()
        stack.enter_context(tended_connections())
        try:
            stack.enter_context(inner())
        except BaseException:
            stack.close()
            raise
        return stack

    return both


def _no_app(environ: object, start_response: object) -> list[bytes]:
    return []
