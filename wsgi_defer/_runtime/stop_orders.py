"""Orders to stop: exceptions that end the worker, or a call around this one."""

from __future__ import annotations


class TimeUp(BaseException):
    """Raised inside a call that has reached its time limit.

    Not an ``Exception``, so that ``except Exception`` in the call lets it through. Each
    limit has its own instance, by which it recognizes its own alarm.
    """


def is_order_to_stop(error: BaseException) -> bool:
    """Tell gunicorn's ``sys.exit()`` in a signal handler from one in a deferred call.

    gunicorn's come from handle_abort and handle_quit in gunicorn/workers/base.py, on
    the worker's timeout and on INT or QUIT. A worker that kept running would be killed
    a second later. The time limit of a call around this one is such an order, too.
    """
    if isinstance(error, TimeUp):
        return True
    if isinstance(error, SystemExit):
        trace = error.__traceback__
        while trace is not None:
            # Not only the last frame: a hook of the user's may call sys.exit(), too.
            if str(trace.tb_frame.f_globals.get("__name__")).startswith("gunicorn."):
                return True
            trace = trace.tb_next
    return False
