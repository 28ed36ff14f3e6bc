"""A child process, as its worker sees it.

It is a new interpreter, and not a process of ``multiprocessing``: that has one fork
server per process, which does not survive a fork, and leaves a directory in /tmp
whenever a worker is killed.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import spawn

from ..errors import PoolStartError
from . import _in_child
from ._in_child import HEADER, SIGNALS, message

CODE = (
    "import sys; sys.path[:], sys.argv[:] = {path}, {argv}; "
    # Under a name that the server's own __main__ cannot have.
    "from wsgi_defer.pools import _in_child as _wsgi_defer; "
    "_wsgi_defer.serve({fd}, {worker}, {main})"
)
_IN_A_CHILD = (
    "this is such a process itself, which imports a module that uses the pool while it "
    "is imported, and so on without an end; a program does that below 'if __name__ == "
    '"__main__"\''
)
END_WAIT = 1.0  # seconds for a child to end by itself
KILLED_WAIT = 5.0  # seconds for the kernel to end it
DEATH_POLL = 500  # milliseconds between two looks at it, where there is no pidfd


class Child:
    """One process, for the thread that starts it; any thread may ``kill()`` it.

    It is replaced and not started again, so that nobody who wants to end it can hit the
    next one.
    """

    doomed = False  # it is killed, or will be as soon as it has started

    def __init__(self) -> None:
        # Reentrant: the garbage collector may end a pool at any line.
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._pidfd: int | None = None
        self._poll = select.poll()
        self._connection: socket.socket = None  # type: ignore[assignment]  # until start()

    def start(self, pool: str) -> None:
        """Start the process. Raises ``PoolStartError``."""
        if _in_child.importing:
            raise PoolStartError(pool, _IN_A_CHILD)
        try:
            self._start()
        except Exception as error:
            raise PoolStartError(pool, f"{type(error).__name__}: {error}") from error
        try:
            self._receive()
        except (EOFError, OSError):
            program, exitcode = spawn.get_executable(), self.wait_for_end()
            raise PoolStartError(
                pool, f"{program!r} ended with exit code {exitcode}"
            ) from None

    def _start(self) -> None:
        self._connection, theirs = socket.socketpair()
        with theirs, _signals_held_back():
            process = subprocess.Popen(  # noqa: S603
                _command(theirs.fileno()),
                stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
            )  # fmt: skip
        with self._lock:
            self._process = process
            if self.doomed:
                process.kill()
        self._connection.setblocking(False)
        self._poll.register(self._connection, select.POLLIN)
        try:  # Linux 5.3 has it; otherwise the other end of the connection must do
            self._pidfd = os.pidfd_open(process.pid)
        except (AttributeError, OSError):
            return
        self._poll.register(self._pidfd, select.POLLIN)

    @property
    def is_ready(self) -> bool:
        """Whether it waits for a task. Otherwise it was never started, or has died."""
        process = self._process
        return (
            process is not None
            and not self._poll.poll(0)
            and (self._pidfd is not None or process.poll() is None)
        )

    def ask(self, data: bytes) -> bytearray:
        """Send it a task, and wait for the answer.

        Raises ``EOFError`` or ``OSError`` if it dies.
        """
        for part in message(data):
            self._send(part)
        return self._receive()

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            try:
                view = view[self._connection.send(view) :]
            except BlockingIOError:
                self._poll.modify(self._connection, select.POLLOUT)
                self._wait()
                self._poll.modify(self._connection, select.POLLIN)

    def _receive(self) -> bytearray:
        return self._read(*HEADER.unpack(self._read(HEADER.size)))

    def _read(self, size: int) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            try:
                count = self._connection.recv_into(view)
            except BlockingIOError:
                self._wait()
                continue
            if not count:
                raise EOFError
            view = view[count:]
        return data

    def _wait(self) -> None:
        # Not only for the connection: a process that a task has forked may hold the
        # other end of it, long after the child has died.
        connection = self._connection.fileno()
        while True:
            ready = self._poll.poll(DEATH_POLL if self._pidfd is None else None)
            if any(fd == connection for fd, _ in ready):
                return
            if ready or (
                self._process is not None and self._process.poll() is not None
            ):
                raise EOFError

    def kill(self) -> None:
        """Kill it, whatever it does. From any thread; no effect if it has ended."""
        with self._lock:
            self.doomed = True
            if self._process is not None:
                self._process.kill()

    def wait_for_end(self) -> int | None:
        """Let it end, or kill it; returns its exit code, if it has one."""
        with self._lock:  # from now on, no other thread knows the process
            process, self._process = self._process, None
        self._close()
        if process is None:
            return None
        try:
            return process.wait(END_WAIT)
        except subprocess.TimeoutExpired:
            process.kill()
        try:
            return process.wait(KILLED_WAIT)
        except subprocess.TimeoutExpired:
            return None

    def forget(self) -> None:
        """In a process that this one has forked: leave it alone."""
        self._close()
        if self._process is not None:
            self._process.returncode = 0  # or Popen would warn that it still runs

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


@contextmanager
def _signals_held_back() -> Iterator[None]:
    # The child inherits what this thread blocks, until it can deal with it. The
    # worker's main thread gets its signals all the same.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _command(fd: int) -> list[str]:
    code = CODE.format(
        path=ascii(sys.path), argv=ascii(sys.argv), fd=fd, worker=os.getpid(),
        main=ascii(_main()),
    )  # fmt: skip
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return [spawn.get_executable(), *flags, "-c", code]


def _main() -> dict[str, str]:
    """What a child needs to find functions of this program's own module."""
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:
        return {"init_main_from_name": spec.name}
    return {} if file is None else {"init_main_from_path": os.path.abspath(file)}
