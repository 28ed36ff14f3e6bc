"""Who may see the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import IPv6Address, ip_address
from typing import Any

Allow = Callable[[dict[str, Any]], object]

# With any of these, somebody has passed the request on, and REMOTE_ADDR is his.
PASSED_ON = (
    "HTTP_FORWARDED",
    "HTTP_VIA",
    "HTTP_X_REAL_IP",
    "HTTP_X_CLIENT_IP",
    "HTTP_TRUE_CLIENT_IP",
    "HTTP_CF_CONNECTING_IP",
)
MISSING = (
    "StatusPage() needs allow=, a function that is called with the WSGI environ and "
    "returns whether this client may see the page. It has no default: the page tells "
    "what your app does, to anybody who is let in. Write allow=loopback_only (from "
    "wsgi_defer.status) for requests from this machine, or your own, such as "
    'allow=lambda environ: environ.get("REMOTE_USER") == "ada"'
)


def loopback_only(environ: Mapping[str, Any]) -> bool:
    """Whether the request was made on this machine, and meant for it.

    All of this must hold, and behind a proxy that names its clients it never does:

    - the peer has a loopback address, or is at the other end of a unix socket;
    - no proxy says that it has passed the request on: no ``Forwarded``, ``Via``,
      ``X-Real-IP``, ``X-Forwarded-For`` or other ``X-Forwarded-*``. Behind a proxy on
      the same machine, all clients have a loopback address;
    - ``Host`` is ``localhost`` or a loopback address. Other names are those of a proxy
      that passes ``Host`` on, or of a page elsewhere that rebinds its name to this
      machine;
    - the request is not HTTP/1.0, which nginx spoke by default before 1.29.7.

    A proxy that adds none of these headers and speaks HTTP/1.1 looks like a client on
    this machine, and lets everybody in: nginx from 1.29.7 on is one if it has nothing
    but a ``proxy_pass``. So deny the path there, too, or set ``X-Forwarded-For``.
    """
    if environ.get("SERVER_PROTOCOL") == "HTTP/1.0":
        return False
    if any(name in environ for name in PASSED_ON):
        return False
    if any(name.startswith("HTTP_X_FORWARDED") for name in environ):
        return False
    peer = environ.get("REMOTE_ADDR")  # empty for a unix socket under gunicorn
    if peer != "" and not _is_loopback(peer):
        return False
    host = _without_port(environ.get("HTTP_HOST", ""))
    return host == "localhost" or _is_loopback(host)


def check_allow(allow: Allow | None) -> Allow:
    """Refuse anything but a function. Raises ``TypeError``."""
    if not callable(allow):
        raise TypeError(MISSING)
    return allow


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _is_loopback(address: str | None) -> bool:
    try:
        found = ip_address(address or "")
    except ValueError:
        return False
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped.is_loopback
    return found.is_loopback
