"""Who is told that a request begins and ends in this process: the ledger, or nobody."""

from __future__ import annotations

from typing import Protocol


class Requests(Protocol):
    """Counts the requests of this process. Both methods may be called at any line."""

    def begin(self, began: float) -> int:
        """A request began then, by ``time.monotonic()``. Returns its lane."""

    def end(self, lane: int, began: float) -> None:
        """The response of that request has ended; its calls may still run."""


class Request(Protocol):
    """What has such a lane, until it has ended."""

    lane: int | None


requests: Requests | None = None


def install(those: Requests | None) -> None:
    """Tell these from now on; None tells nobody."""
    global requests
    requests = those


def end(request: Request, began: float) -> None:
    """Its response has ended. No effect the second time, or if nobody was told of it.

    In a process that the view has forked, nobody is told.
    """
    lane, request.lane = request.lane, None
    if lane is not None and requests is not None:
        requests.end(lane, began)
