"""What runs in the children of a process pool.

A message, in either direction, is its length in eight bytes, and then so many bytes.
The child's first one is empty: it is there.
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

from ._parent import end_with
from .errors import RemoteError

HEADER = struct.Struct("!Q")
SMALL = 16384  # bytes; two pieces would wake the receiver twice
# The first byte of an answer. A pickle follows, or for the last one a text.
RESULT, RAISED, UNPICKLABLE = b"R", b"E", b"U"
# What a terminal or a service manager may send to all processes, for the worker to
# heed. Not QUIT, which ends a process at once.
SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)

# This is a child, and imports what a call needs. A module that itself uses a pool of
# processes when it is imported would start one child after the other.
importing = False


def serve(fd: int, worker: int, main: dict[str, str]) -> None:
    """Run jobs until the worker is gone. ``main`` is what ``__main__`` is there."""
    os.set_inheritable(fd, False)
    # It is the thread that works for this process which has started it.
    if not end_with(worker):
        threading.Thread(target=_wait_for_worker, args=[worker], daemon=True).start()
    for number in SIGNALS:
        # Not SIG_IGN, which a command that a job starts would inherit.
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
        os._exit(code)  # waits for no thread that a job has left


def _serve(connection: socket.socket, main: dict[str, str]) -> None:
    pid = os.getpid()
    read = connection.makefile("rb").read
    connection.sendall(HEADER.pack(0))
    while len(header := read(HEADER.size)) == HEADER.size:
        data = read(*HEADER.unpack(header))
        answer = _answer(data, main)
        if os.getpid() != pid:  # the job has forked, and this is not the child
            os._exit(1)
        _flush()
        for part in message(answer):
            connection.sendall(part)
        del data, answer  # not while it waits for the next one


def message(data: bytes) -> tuple[bytes, ...]:
    """What is to be sent: in one piece, unless that would be a large copy."""
    header = HEADER.pack(len(data))
    return (header + data,) if len(data) < SMALL else (header, data)


def _flush() -> None:
    # What the job has printed: this process will be killed.
    for file in (sys.stdout, sys.stderr):
        try:
            file.flush()
        except BaseException:  # closed, or whatever a job has put there
            pass


def _pass(number: int, frame: FrameType | None) -> None:
    """Go on; the worker ends this process when it is done with it."""


def _wait_for_worker(worker: int) -> None:
    while os.getppid() == worker:
        time.sleep(0.5)
    os._exit(1)


def _answer(data: bytes, main: dict[str, str]) -> bytes:
    """Run the call that was sent, and say how it ended."""
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
            # Only then: it is the server's, and to load that takes time.
            if not main or b"__main__" not in data:
                raise
        from multiprocessing import spawn

        spawn.prepare(main)
        return pickle.loads(data)  # type: ignore[no-any-return]  # noqa: S301
    finally:
        importing = False


def _raised(error: BaseException) -> bytes:
    # Whatever methods it has: none is to end this process.
    try:
        text = "".join(traceback.format_exception(error))
    except BaseException:
        text = "its traceback cannot be formatted"
    try:
        if isinstance(error, SystemExit):  # it is to end this job, and no worker
            raise TypeError
        answer = pickle.dumps((error, text))
        # To the end: many can be sent that cannot be received.
        if isinstance(pickle.loads(answer)[0], BaseException):  # noqa: S301
            return RAISED + answer
    except BaseException:  # then without the original
        pass
    try:
        said = "".join(["", str(error)])  # a plain one
    except BaseException:
        said = "its text cannot be had"
    remote = RemoteError(type(error).__qualname__, said)
    return RAISED + pickle.dumps((remote, text))


def why_not(what: object, error: BaseException) -> str:
    """Why that cannot be pickled. The text of the error may show what is private."""
    return f"{type(error).__name__} in {type(what).__qualname__}"
