"""The middleware as a filter of PasteDeploy, which Pyramid's ini files use.

::

    [filter:defer]
    use = egg:wsgi-defer
    time_limit = 60

    [pipeline:main]
    pipeline = defer myapp
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ._request.middleware import DeferMiddleware

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


def filter_app(
    app: WSGIApplication, global_conf: Mapping[str, str], **options: str
) -> DeferMiddleware:
    """Wrap ``app``. ``options`` are those of ``DeferMiddleware`` that are text, a
    number, or true and false. Raises ``ValueError`` for others."""
    return DeferMiddleware(
        app, **{name: _value(name, text) for name, text in options.items()}
    )


def _value(name: str, text: str) -> Any:
    if name not in _KINDS:
        known = ", ".join(_KINDS)
        raise ValueError(f"the filter wsgi-defer has no option {name!r}, only {known}")
    try:
        return _KINDS[name](text.strip())
    except (ValueError, KeyError):
        raise ValueError(f"{name} = {text} is not a value of that option") from None


def _true_or_false(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


_KINDS: dict[str, Callable[[str], Any]] = {
    "max_calls": int,
    "inline": _true_or_false,
    "background_threads": int,
    "when_busy": str,
    "time_limit": float,
    "time_limit_grace": float,
    "slow_after": float,
    "max_waiting": int,
    "when_full": str,
}
