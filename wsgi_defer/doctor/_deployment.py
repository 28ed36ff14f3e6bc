"""The deployment that is examined: its address, and how to ask its doctor's app."""

from __future__ import annotations

import importlib
import importlib.util
import json
import secrets
import ssl
import time
from typing import Any
from urllib.parse import urlsplit

from .._runtime.clock import monotonic
from .._wire.connection import Connection
from .._wire.message import Message
from ._app import FACTS_HEADER, TOKEN_HEADER

PROTOCOLS = ("1.0", "1.1", "2")


class NoDoctorError(Exception):
    """The deployment cannot be examined; the message says why."""


class Deployment:
    """One URL, by which the doctor's app is reached, and the token.

    ``patience``: seconds for whatever should come. Raises ``NoDoctorError`` if it is
    no URL.
    """

    def __init__(
        self,
        url: str,
        token: str,
        tls: ssl.SSLContext | None = None,
        patience: float = 30.0,
    ) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port or {"http": 80, "https": 443}[parts.scheme]
            if not parts.hostname or not url.isascii() or not url.isprintable():
                raise ValueError
        except (ValueError, KeyError):
            raise NoDoctorError(
                f"{url!r} is not a URL as https://example.com/doctor"
            ) from None
        self.address = (parts.hostname, port)
        self.authority = parts.netloc.rpartition("@")[2]
        self.path = parts.path.rstrip("/")
        self.token, self.patience = token, patience
        self.tls = None
        if parts.scheme == "https":
            self.tls = tls or ssl.create_default_context()

    def connect(self, protocol: str = "1.1", buffer: int | None = None) -> Connection:
        """A new connection, as another user has one. Raises ``OSError``."""
        how = (self.address, self.tls, self.address[0], self.patience)
        if self.tls is not None:
            self.tls.set_alpn_protocols(["h2" if protocol == "2" else "http/1.1"])
        if protocol == "2":
            # By its name: whoever has no h2 has all the rest.
            http2 = importlib.import_module(".._wire.http2", __package__)
            connection: Connection = http2.Connection2(*how)
        else:
            connection = Connection(*how, buffer)
        connection.host = self.authority
        return connection

    def why_no_http2(self) -> str:
        """Why HTTP/2 cannot be tried; nothing if it can."""
        if self.tls is None:
            return "it needs https"
        if importlib.util.find_spec("h2") is None:
            return "pip install h2, and run this once more"
        try:
            self.connect("2").socket.close()
        except OSError:
            return "the server does not offer it"
        return ""

    def ask(
        self, connection: Connection, protocol: str, method: str, target: str
    ) -> Any:
        """Send a request; returns the message that its answer goes to."""
        target = f"{self.path}/{target}"
        if protocol == "2":
            header = ((TOKEN_HEADER.lower(), self.token),)
            return connection.request(method, target, header)  # type: ignore[attr-defined]
        token = f"{TOKEN_HEADER}: {self.token}"
        connection.send(method, target, f"HTTP/{protocol}", token)
        return Message(method)

    def get(self, target: str) -> Message:
        """A request on a connection of its own, and all of its answer."""
        with self.connect() as connection:
            message = self.ask(connection, "1.1", "GET", target)
            connection.read(message, monotonic() + self.patience)
        assert isinstance(message, Message)
        if not message.complete:
            raise NoDoctorError(f"no whole answer within {self.patience:g} s")
        return message

    def notes(self, key: str) -> list[dict[str, Any]]:
        """What the call of that request has noted, so far."""
        message = self.get(f"report?key={key}")
        if message.status != 200:
            raise NoDoctorError(f"asked for a report, it answered {message.status}")
        notes: list[dict[str, Any]] = json.loads(message.body)
        return notes

    def wait_for(self, key: str, event: str, patience: float) -> list[dict[str, Any]]:
        """The notes, when that event is among them, or time is up."""
        deadline = monotonic() + patience
        while True:
            late = monotonic() > deadline
            notes = self.notes(key)
            if late or any(note["event"] == event for note in notes):
                return notes
            time.sleep(0.02)

    def introduce(self) -> tuple[dict[str, Any], str]:
        """The facts that the app tells, and the name of who answers."""
        message = self.get("hello")
        told = message.header(FACTS_HEADER)
        if message.status == 403:
            raise NoDoctorError("the token was refused (status 403)")
        if 300 <= message.status < 400:
            where = message.header("location")
            raise NoDoctorError(f"it redirects to {where}: examine that URL")
        if message.status != 200 or told is None:
            raise NoDoctorError(
                f"there is no doctor_app at this URL (status {message.status}); mount "
                "it, see docs/doctor.md"
            )
        return json.loads(told), message.header("server") or ""


def new_key() -> str:
    """For one request."""
    return secrets.token_hex(8)
