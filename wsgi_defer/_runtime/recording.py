"""Who is told that a request begins and ends in this process: the ledger, or nobody."""

from __future__ import annotations

from typing import Protocol


class Request(Protocol):
    """What has a lane, until it has ended."""

    lane: int | None


class Requests(Protocol):
    """Counts the requests of this process. Both methods may be called at any line."""

    def begin(self, began: float) -> int:
        """A request began then, by ``time.monotonic()``. Returns its lane."""

    def end(self, request: Request, began: float) -> None:
        """The response has ended; its calls may still run. No effect the second time,
        and on one that began when nobody was told."""


requests: Requests | None = None


def install(those: Requests | None) -> None:
    """Tell these from now on; None tells nobody."""
    global requests
    requests = those
