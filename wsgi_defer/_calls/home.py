"""A call's scope, as the call sees it."""

from __future__ import annotations

from typing import Any, Protocol


class Home(Protocol):
    """Where a call waits. It takes calls, which know of this."""

    def add(self, call: Any, function: str) -> None:
        """Take a call; raises what ``defer()`` raises."""

    def bring_about(self, call: Any) -> None:
        """Run a call that still waits, if this is inside its request."""

    def note_name(self, call: Any) -> None:
        """The call has a new name."""
