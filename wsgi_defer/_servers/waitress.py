"""waitress."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .server import Server

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


class Waitress(Server):
    """It calls ``close()`` before it sends the end of a chunked body, or the head of a
    response without a body (task.py, WSGITask.execute and Task.finish), and before it
    takes the next request on the connection.

    Its file wrapper could be hooked, but its ``close()`` would run on the thread for
    all connections (channel.py); so a file is wrapped like any other body.
    """

    def would_wait(self, environ: WSGIEnvironment) -> bool:
        return True


WAITRESS = Waitress()
