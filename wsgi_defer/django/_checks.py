"""What ``manage.py check`` says of the settings."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as CheckWarning

from ._options import options_of_settings

MIDDLEWARE = "wsgi_defer.django.DeferMiddleware"


def check_settings(**kwargs: Any) -> list[CheckMessage]:
    """The middleware, its options, and the logger."""
    return [*_check_options(), *_check_middleware(), *_check_logging()]


def _check_options() -> Iterator[CheckMessage]:
    try:
        options_of_settings()
    except (TypeError, ValueError) as error:
        yield Error(
            f"WSGI_DEFER is wrong: {error}",
            hint="It takes the options of wsgi_defer.DeferMiddleware, as a dict.",
            id="wsgi_defer.E001",
        )


def _check_middleware() -> Iterator[CheckMessage]:
    middleware = list(settings.MIDDLEWARE or ())
    if MIDDLEWARE not in middleware:
        yield CheckWarning(
            f"{MIDDLEWARE} is not in MIDDLEWARE, so defer() raises NoScopeError.",
            hint=f'Make it the first: MIDDLEWARE = ["{MIDDLEWARE}", ...]',
            id="wsgi_defer.W001",
        )
    elif middleware[0] != MIDDLEWARE:
        yield CheckWarning(
            f"{MIDDLEWARE} is not the first in MIDDLEWARE. Middleware before it cannot "
            "defer, and may change the status after the calls were chosen by it.",
            hint=f"Put it before {middleware[0]}.",
            id="wsgi_defer.W002",
        )


def _check_logging() -> Iterator[CheckMessage]:
    # A configuration that just disables all loggers leaves this one, see report.py.
    logger = logging.getLogger("wsgi_defer")
    if logger.disabled or not logger.isEnabledFor(logging.ERROR):
        yield CheckWarning(
            'The logger "wsgi_defer" is silent, so nobody hears of a call that fails '
            "or is lost.",
            hint='Give it the level "WARNING" in LOGGING, and do not disable it.',
            id="wsgi_defer.W003",
        )
