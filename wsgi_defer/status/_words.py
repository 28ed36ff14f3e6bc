"""Numbers as people read them, and texts of the app's that cannot do harm."""

from __future__ import annotations

from datetime import datetime, timezone

from .._runtime.report import printable

NOTHING = "-"
MOST = 300  # characters of a text that are shown


def count(number: int | None) -> str:
    """As ``12,345``; a dash if it is unknown."""
    return NOTHING if number is None else f"{number:,}"


def seconds(value: float | None) -> str:
    """As ``12 ms``, ``3.4 s``, ``5 min 6 s``, ``7 h 8 min`` or ``9 d 10 h``."""
    if value is None:
        return NOTHING
    value = max(value, 0)
    if value == 0:
        return "0 s"
    if value < 0.0995:
        return f"{value * 1000:.2g} ms"
    if value < 0.9995:
        return f"{value * 1000:.0f} ms"
    if value < 59.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def memory(size: int | None) -> str:
    """Bytes, as ``82 MB``."""
    if size is None:
        return NOTHING
    return f"{size / 1e6:.0f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"


def percent(part: float) -> str:
    """A part of 1; as ``<1 %`` if there is just some."""
    return "<1 %" if 0 < part < 0.01 else f"{part * 100:.0f} %"


def utc(at: float | datetime | None) -> str:
    """A moment in UTC, without the zone, as ``2026-12-01 04:20:07``."""
    if at is None:
        return NOTHING
    if not isinstance(at, datetime):
        at = datetime.fromtimestamp(at, timezone.utc)
    return f"{at.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S}"


def safe(text: object, most: int = MOST) -> str:
    """The app's text on one line, cut, without control characters."""
    text = str(text)
    return printable(text if len(text) <= most else text[: most - 1] + "…")
