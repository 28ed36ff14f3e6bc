"""What the server around this process can tell, or do for it."""

from __future__ import annotations

from collections.abc import Callable

from .stop_orders import TimeUp


class Host:
    """The process as the calls see it. This class is used if nothing more is known.

    ``wsgi_defer.gunicorn`` installs one that knows more, in each worker. All methods
    may be called from any thread.
    """

    why = "the process was told to stop"  # the reason given for calls that were cut off

    @property
    def recorded(self) -> bool:
        """Whether something outlives the process, and names the call that ran in it."""
        return False

    def beat(self, thread: int | None = None) -> None:
        """Tell the watcher of this process that ``thread``, or this one, is at work."""

    def client_waiting(self) -> bool:
        """Tell whether a client waits for this process to accept its connection."""
        return False

    def time_left(self) -> float | None:
        """Seconds that this process still has for calls before it is killed.

        None if it has not been told to stop, or if that is not known.
        """
        return None

    def patience(self) -> float | None:
        """Seconds that this thread may wait before the server considers the process
        stuck and ends it. None if it may wait forever, or if that is not known.
        """
        return None

    def call_within(
        self, seconds: float, up: TimeUp, run: Callable[[], object]
    ) -> bool:
        """Call ``run`` with the server's own time limit, which raises ``up`` inside it.

        Returns False, without calling it, if the server has no such limit.
        """
        return False


current = Host()


def install(host: Host) -> None:
    """Make ``host`` the host of this process."""
    global current
    current = host
