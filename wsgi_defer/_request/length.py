"""Whether a response says how long its body is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

FRAMING = frozenset(["content-length", "transfer-encoding"])


def lacks_length(status: Any, headers: Any, environ: WSGIEnvironment) -> bool:
    """Whether a length is missing, in a response that has a body.

    Most servers can end such a body only by closing the connection.
    """
    if not isinstance(headers, (list, tuple)):
        return False  # to look at an iterator would spend it
    try:
        for name, _ in headers:
            if name.lower() in FRAMING:
                return False
        bodiless = status[:3] in ("204", "304")
    except (TypeError, ValueError, AttributeError):
        return False  # these are not headers, or a status; the server will say so
    return not bodiless and environ.get("REQUEST_METHOD") != "HEAD"
