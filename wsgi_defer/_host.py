"""What the server around this process can tell, or take."""

from __future__ import annotations

from collections.abc import Callable


class Host:
    """The process as the calls see it. This one stands where nobody knows more.

    ``wsgi_defer.gunicorn`` installs one that does, in each worker. All of it may be
    called from any thread.
    """

    why = "the worker was told to stop"  # what is said of calls that this cut off
    # Something outlives the process, and names the call that was running in it.
    recorded = False

    def beat(self, thread: int | None = None) -> None:
        """Tell who watches this process that ``thread``, or this one, is at work."""

    def client_waiting(self) -> bool:
        """Tell whether a client waits for this process to take its connection."""
        return False

    def time_left(self) -> float | None:
        """Seconds that a process which stops still has for calls, before it is killed.

        None if it does not stop, or if nobody says so.
        """
        return None

    def patience(self) -> float | None:
        """Seconds that this thread may wait before the server takes the process for
        stuck, and ends it. None if it may wait for ever, or if nobody says so.
        """
        return None

    def call_within(
        self, seconds: float, up: TimeUp, run: Callable[[], object]
    ) -> bool:
        """Run it with a limit of the server's own, which raises ``up`` inside it.

        Returns False, and has not run it, where the server has no such thing.
        """
        return False


class TimeUp(BaseException):
    """Raised inside a call that has reached its time limit.

    Not an ``Exception``, so that ``except Exception`` in the call lets it through. Each
    limit has an instance of its own, by which it knows it again.
    """


current = Host()


def install(host: Host) -> None:
    """Make ``host`` the one that this process asks."""
    global current
    current = host


def is_order_to_stop(error: BaseException) -> bool:
    """Tell gunicorn's ``sys.exit()`` in a signal handler from one in a deferred call.

    gunicorn/workers/base.py: handle_abort and handle_quit, on the worker's timeout
    and on INT or QUIT. Running on would only get the worker killed a second later.
    The time limit of a call around all this is such an order, too.
    """
    if isinstance(error, TimeUp):
        return True
    if isinstance(error, SystemExit):
        trace = error.__traceback__
        while trace is not None:
            # Not the last frame only: a hook of the user's may call sys.exit(), too.
            if str(trace.tb_frame.f_globals.get("__name__")).startswith("gunicorn."):
                return True
            trace = trace.tb_next
    return False
