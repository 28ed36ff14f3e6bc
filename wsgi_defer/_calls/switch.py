"""The switch that tests set; it is asked wherever calls would run."""

from __future__ import annotations

from typing import Any

from .call import DeferredCall
from .outcome import Outcome


class Mode:
    """What becomes of calls, as in production; ``wsgi_defer.testing`` has others.

    ``scope`` is a ``Scope``; that module asks this one.
    """

    holds = False  # calls stay on the thread where their response ends
    apart = ""  # what sets the names of once_for() apart from those outside

    def registered(self, call: DeferredCall, scope: Any) -> None:
        """The call was just deferred. What this raises, ``defer()`` raises."""

    def take(self, scope: Any, outcome: Outcome) -> bool:
        """The scope has ended, and its calls would run now. True if they do not."""
        return False


mode: Mode | None = None  # None in production


def set_mode(new: Mode | None) -> None:
    """For all threads of this process, from now on."""
    global mode
    mode = new
