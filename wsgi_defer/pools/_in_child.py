"""What runs in the children of a process pool.

A message, in either direction, is a length in eight bytes, and then that many bytes.
The first message of the child is empty: it says that the child is ready.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from types import FrameType
from typing import Any

from .._runtime.parent import end_with
from ..errors import RemoteError

HEADER = struct.Struct("!Q")
SMALL = 16384  # bytes; up to here, one piece, as two would wake the receiver twice
# The first byte of an answer. A pickle follows, or for the last one a text.
RESULT, RAISED, UNPICKLABLE = b"R", b"E", b"U"
# What a terminal or a service manager may send to all processes: the worker decides
# what follows. Not QUIT, which ends a process at once.
SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)

# True while this child imports what a call needs. A module that uses a process pool
# while it is imported would start one child after the other.
importing = False


def serve(fd: int, worker: int, main: dict[str, str]) -> None:
    """Run tasks until the worker is gone. ``main`` says what ``__main__`` is there."""
    os.set_inheritable(fd, False)
    # The thread of the worker that uses this process has also started it.
    if not end_with(worker):
        threading.Thread(target=_wait_for_worker, args=[worker], daemon=True).start()
    for number in SIGNALS:
        # Not SIG_IGN, which a command that a task starts would inherit.
        signal.signal(number, _pass)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    code = 0
    try:
        _serve(socket.socket(fileno=fd), main)
    except OSError:  # the worker is gone
        pass
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        os._exit(code)  # waits for no thread that a task has left


def _serve(connection: socket.socket, main: dict[str, str]) -> None:
    pid = os.getpid()
    read = connection.makefile("rb").read
    connection.sendall(HEADER.pack(0))
    while len(header := read(HEADER.size)) == HEADER.size:
        data = read(*HEADER.unpack(header))
        answer = _answer(data, main)
        if os.getpid() != pid:  # the task has forked, and this is the fork
            os._exit(1)
        _flush()
        for part in message(answer):
            connection.sendall(part)
        del data, answer  # or they would live until the next task comes


def message(data: bytes) -> tuple[bytes, ...]:
    """The pieces to send: one, unless that would copy much."""
    header = HEADER.pack(len(data))
    return (header + data,) if len(data) < SMALL else (header, data)


def _flush() -> None:
    # What the task has printed: this process may be killed.
    for file in (sys.stdout, sys.stderr):
        try:
            file.flush()
        except BaseException:  # it is closed, or a task has put something else there
            pass


def _pass(number: int, frame: FrameType | None) -> None:
    """Keep running; the worker ends this process when it needs it no more."""


def _wait_for_worker(worker: int) -> None:
    while os.getppid() == worker:
        time.sleep(0.5)
    os._exit(1)


def _answer(data: bytes, main: dict[str, str]) -> bytes:
    """Run the call that was sent; return how it ended."""
    try:
        fn, args, kwargs = _load(data, main)
        result = fn(*args, **kwargs)
    except BaseException as error:
        return _raised(error)
    try:
        return RESULT + pickle.dumps(result, pickle.HIGHEST_PROTOCOL)
    except BaseException as error:
        return UNPICKLABLE + why_not(result, error).encode()


def _load(data: bytes, main: dict[str, str]) -> tuple[Any, Any, Any]:
    global importing
    importing = True
    try:
        try:
            return pickle.loads(data)  # type: ignore[no-any-return]  # noqa: S301 - our own worker sent it
        except AttributeError:
            # Only then: __main__ is the server's, and takes time to load.
            if not main or b"__main__" not in data:
                raise
        from multiprocessing import spawn

        spawn.prepare(main)
        return pickle.loads(data)  # type: ignore[no-any-return]  # noqa: S301
    finally:
        importing = False


def _raised(error: BaseException) -> bytes:
    # Whatever its methods do, none may end this process.
    try:
        text = "".join(traceback.format_exception(error))
    except BaseException:
        text = "its traceback cannot be formatted"
    try:
        if isinstance(error, SystemExit):  # it ends this task, but must end no worker
            raise TypeError
        answer = pickle.dumps((error, text))
        # Some exceptions pickle but do not unpickle.
        if isinstance(pickle.loads(answer)[0], BaseException):  # noqa: S301
            return RAISED + answer
    except BaseException:  # then the original stays here
        pass
    try:
        said = "".join(["", str(error)])  # a plain str
    except BaseException:
        said = "its text cannot be had"
    remote = RemoteError(type(error).__qualname__, said)
    return RAISED + pickle.dumps((remote, text))


def why_not(what: object, error: BaseException) -> str:
    """Why that cannot be pickled, without the text, which may show arguments."""
    return f"{type(error).__name__} in {type(what).__qualname__}"
