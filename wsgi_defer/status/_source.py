"""Where ``top`` gets its figures: the page, over HTTP or a unix socket."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any
from urllib.parse import urlsplit

from ._json import VERSION

TIMEOUT = 10.0  # seconds, as the workers may be busy
LARGEST = 16 * 1024 * 1024  # bytes
EXAMPLES = "http://127.0.0.1:8000/status or unix:/run/shop.sock:/status"


class SourceError(Exception):
    """There are no figures; its text says why, and what to do."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self._path)


class Source:
    """The page at an address. Raises ``SourceError`` if it cannot be one."""

    def __init__(self, address: str) -> None:
        self.address = address
        if address.startswith("unix:"):
            self._socket, _, path = address.removeprefix("unix:").partition(":")
            self._path = path or "/"
            self._host = ""
        else:
            parts = urlsplit(address)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise SourceError(f"no address: {address}; write {EXAMPLES}")
            self._socket = ""
            self._host = parts.netloc.rpartition("@")[2]
            self._path = parts.path or "/"
            self._tls = parts.scheme == "https"
        if not self._path.isascii() or not self._path.isprintable():
            raise SourceError(f"no address: {address}; write {EXAMPLES}")

    def read(self) -> dict[str, Any]:
        """The figures of this moment, as of ``?format=json``. Raises ``SourceError``.

        Each time over a new connection: a sync worker has no others.
        """
        connection = self._connection()
        try:
            connection.request(
                "GET", f"{self._path}?format=json", headers={"Connection": "close"}
            )
            answer = connection.getresponse()
            body = answer.read(LARGEST)
        except TimeoutError:
            raise SourceError(
                f"{self.address} did not answer in {TIMEOUT:.0f} s; perhaps all "
                "workers are busy"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise SourceError(
                f"{self.address}: {error or type(error).__name__}; does the server "
                "run, and is the address right?"
            ) from None
        finally:
            connection.close()
        return self._figures(answer, body)

    def _connection(self) -> http.client.HTTPConnection:
        if self._socket:
            return _UnixConnection(self._socket)
        if self._tls:
            return http.client.HTTPSConnection(self._host, timeout=TIMEOUT)
        return http.client.HTTPConnection(self._host, timeout=TIMEOUT)

    def _figures(self, answer: http.client.HTTPResponse, body: bytes) -> dict[str, Any]:
        if answer.status == 403:
            raise SourceError(
                f"{self.address} refuses to answer (403): the function allow= of the "
                "app's StatusPage says no. If that is loopback_only, ask on the app's "
                "machine for the address that gunicorn listens on, not for the proxy's"
            )
        if answer.status != 200:
            raise SourceError(
                f"{self.address} answers {answer.status} {answer.reason}; is that the "
                "path of the status page?"
            )
        try:
            found = json.loads(body)
            version = found["wsgi_defer"]
        except (ValueError, TypeError, KeyError):
            raise SourceError(
                f"{self.address} is not a status page of wsgi_defer; is the path right?"
            ) from None
        if version != VERSION:
            raise SourceError(
                f"{self.address} is a page of another release (its JSON has version "
                f"{version}, this one reads {VERSION}): run top with the app's own one"
            )
        figures: dict[str, Any] = found
        return figures
