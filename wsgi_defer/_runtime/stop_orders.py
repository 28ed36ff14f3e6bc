"""Orders to stop: exceptions that end the process, or a call around this one."""

from __future__ import annotations

import os
import threading
from itertools import pairwise
from types import FrameType

CO_VARARGS = 4  # inspect's, which takes long to import


class TimeUp(BaseException):
    """Raised inside a call that has reached its time limit.

    Not an ``Exception``, so that ``except Exception`` in the call lets it through. Each
    limit has its own instance, by which it recognizes its own alarm.
    """


def is_order_to_stop(error: BaseException) -> bool:
    """Tell an order to stop from what a deferred call has raised by itself.

    ``KeyboardInterrupt`` is one, and so is a ``SystemExit`` from the handler of a
    signal. gunicorn's come from handle_abort and handle_quit in
    gunicorn/workers/base.py, on the worker's timeout and on INT or QUIT; a worker that
    kept running would be killed a second later. The time limit of a call around this
    one is such an order, too.
    """
    if isinstance(error, SystemExit):
        return _comes_from_a_signal(error)
    if isinstance(error, KeyboardInterrupt):
        return _is_main_thread()
    return isinstance(error, TimeUp)


def _is_main_thread() -> bool:
    # Signals are handled there alone. On another thread, the app has raised it.
    if threading.current_thread() is threading.main_thread():
        return True
    return threading.get_native_id() == os.getpid()  # a greenlet of gevent's


def _comes_from_a_signal(error: BaseException) -> bool:
    trace, caller = error.__traceback__, None
    while trace is not None:
        frame = trace.tb_frame
        # Not only the last frame: a hook of the user's may call sys.exit(), too.
        if str(frame.f_globals.get("__name__")).startswith("gunicorn."):
            return True
        if caller is not None and _handles_a_signal(frame, caller):
            return True
        trace, caller = trace.tb_next, frame
    return False


def _handles_a_signal(frame: FrameType, caller: FrameType) -> bool:
    """Whether that frame is a handler, which has interrupted the other one.

    Python calls it with the number of the signal and the frame that it interrupts. So a
    method, a partial function and one with ``*args`` are recognized, too, and one that
    has been replaced meanwhile: ``signal.getsignal()`` would not tell of it.
    """
    code, known = frame.f_code, frame.f_locals
    given = [known.get(name) for name in code.co_varnames[: code.co_argcount]]
    if code.co_flags & CO_VARARGS:
        rest = known.get(code.co_varnames[code.co_argcount + code.co_kwonlyargcount])
        given += rest if isinstance(rest, tuple) else ()
    return any(
        interrupted is caller and isinstance(number, int)
        for number, interrupted in pairwise(given)
    )
