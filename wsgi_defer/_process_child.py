"""What runs in the children of a process pool."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from multiprocessing.connection import Connection, wait
from typing import Any

from .errors import RemoteError

PR_SET_PDEATHSIG = 1  # of prctl(2), on Linux
# The first byte of an answer; a pickle follows.
RESULT, RAISED, UNPICKLABLE = b"R", b"E", b"U"


def serve(connection: Connection, forked: bool) -> None:
    """Run jobs until the worker is gone."""
    _end_with_worker(forked)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal, for the worker
    while True:
        try:
            data = connection.recv_bytes()
        except (EOFError, OSError):
            return
        connection.send_bytes(_answer(data))
        del data


def _end_with_worker(forked: bool) -> None:
    # The worker's death ends the fork server, and that ends this process, whatever it
    # is doing. Elsewhere than on Linux, and until the server has noticed, a thread
    # sees to that as soon as the job lets it run.
    if forked:
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    threading.Thread(target=_wait_for_worker, daemon=True).start()


def _wait_for_worker() -> None:
    worker: Any = multiprocessing.parent_process()
    signs = [worker.sentinel]
    try:  # another process that the app has forked may hold the end of the sentinel
        signs.append(os.pidfd_open(worker.pid))
    except ProcessLookupError:
        os._exit(1)
    except (AttributeError, OSError):  # Linux 5.3 has it
        pass
    wait(signs)
    os._exit(1)


def _answer(data: bytes) -> bytes:
    """Run the call that was sent, and say how it ended."""
    try:
        fn, args, kwargs = pickle.loads(data)  # noqa: S301 - our own worker sent it
        result = fn(*args, **kwargs)
    except BaseException as error:
        text = "".join(traceback.format_exception(error))
        return RAISED + pickle.dumps((_portable(error), text))
    try:
        return RESULT + pickle.dumps(result, pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        text = "".join(traceback.format_exception(error))
        return UNPICKLABLE + pickle.dumps((_portable(error), text))


def _portable(error: BaseException) -> BaseException:
    try:  # to the end: many can be sent that cannot be received
        pickle.loads(pickle.dumps(error))  # noqa: S301
    except Exception:
        return RemoteError(type(error).__qualname__, str(error))
    return error
