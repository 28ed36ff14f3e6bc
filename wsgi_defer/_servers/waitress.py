"""waitress."""

from __future__ import annotations

from .server import WaitingServer


class Waitress(WaitingServer):
    """It calls ``close()`` before it sends the end of a chunked body, or the head of a
    response without a body (task.py, WSGITask.execute and Task.finish), and before it
    takes the next request on the connection.

    It closes its file wrapper on the thread for all connections (channel.py), which
    must not run the calls.
    """


WAITRESS = Waitress()
