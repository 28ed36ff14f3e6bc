"""``detach()``: a command that outlives the request, and the worker.

A worker's own child would stay a zombie after its end, until the worker waits for it.
So a second interpreter, the starter, stands between them: it is given the command,
starts it, answers with its id, and ends. Nothing here forks this process, which has
threads and may use much memory: both are started with ``posix_spawn()``.
"""

from __future__ import annotations

import errno
import marshal
import os
import posix
import re
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import repeat
from typing import Any, TypeAlias

__all__ = ["detach"]

Word: TypeAlias = "str | bytes | os.PathLike[str] | os.PathLike[bytes]"

# The program of the starter. Its stdin is a socket: it reads its request there, answers
# there, and ends. It imports only built-in modules: ``os`` or ``subprocess`` would take
# 3 or 25 ms more to load.
STARTER = """
import errno, marshal, posix

def answer(pid, number=0, of_cwd=False):
    try:
        posix.write(0, b"%d %d %d\\n" % (pid, number, of_cwd))
    finally:
        posix._exit(0)

request = b""
while chunk := posix.read(0, 65536):
    request += chunk
try:
    paths, argv, env, cwd, signals = marshal.loads(request)
except (EOFError, ValueError, TypeError):  # cut short: who asked is gone
    posix._exit(1)
try:
    fds = [int(name) for name in posix.listdir("/dev/fd")]
except OSError:
    fds = range(posix.sysconf("SC_OPEN_MAX"))
for fd in fds:
    if fd > 2:
        try:
            posix.close(fd)
        except OSError:  # that of the list itself
            pass
if cwd is not None:
    try:
        posix.chdir(cwd)
    except OSError as error:
        answer(0, error.errno, True)
number = 0
for path in paths:
    try:
        answer(posix.posix_spawn(
            path, argv, env, setsid=True, setsigmask=(), setsigdef=signals,
            file_actions=[(posix.POSIX_SPAWN_OPEN, 0, "/dev/null", posix.O_RDONLY, 0)],
        ))
    except OSError as error:
        if not number or error.errno not in (errno.ENOENT, errno.ENOTDIR):
            number = error.errno
answer(0, number)
"""


def detach(
    argv: Sequence[Word],
    *,
    cwd: Word | None = None,
    env: Mapping[str | bytes, str | bytes] | None = None,
    log: Word | None = None,
) -> int:
    """Start a command that outlives the request and this process; return its id.

    It is made to be deferred, ``defer(detach, ["convert", source, target])``, but also
    works in a view or a script. The command has its own session and process group, so
    that no signal to the server reaches it. Its stdin is the null device. It inherits
    no other descriptor, and no blocked or ignored signal. It is not a child of this
    process, so it leaves no zombie here, unless this is process 1 of a container. This
    process is not told how it ends.

    ``argv``: the program, which is looked up in the ``PATH`` of ``env``, and its
    arguments. No shell reads them. Our logs and errors show the program's name, but
    never the arguments. ``cwd``: the directory it starts in. ``env``: the whole
    environment, in place of this process's. ``log``: a file that its stdout and stderr
    are appended to; without one, they are dropped. A new log is readable only by its
    owner (mode 600), because output may be private; an existing one keeps its mode. Its
    directory must exist. ``cwd`` and ``log`` are relative to this process's directory;
    a program with a slash in its name is relative to ``cwd``.

    A time limit or a signal may end ``detach()`` when the command has already started.

    Raises the ``OSError`` of what fails: ``FileNotFoundError`` for a program, a ``cwd``
    or the directory of a ``log`` that does not exist, ``PermissionError``,
    ``NotADirectoryError``; ``TypeError`` if ``argv`` is not a list; ``ValueError`` if
    it is empty, or if something cannot be passed to a command. Returns when the command
    runs, after some 20 ms, which the starter takes to load. Meanwhile other threads
    run, and so do greenlets if gevent has patched ``socket``. Safe from any thread.
    """
    program, request = _request(argv, cwd, env)
    fds: list[int] = []
    close_all = _for_each(fds, os.close)
    try:
        _open(log, fds)
        pid, number, of_cwd = _ask(request, fds[-1])
    finally:
        close_all()
    if not pid:
        named = cwd if of_cwd and cwd is not None else program
        raise OSError(number, os.strerror(number), os.fspath(named))
    return pid


def _request(
    argv: Sequence[Word],
    cwd: Word | None,
    env: Mapping[str | bytes, str | bytes] | None,
) -> tuple[Word, bytes]:
    """Check the arguments. Returns the program's name, and the starter's request."""
    if isinstance(argv, (str, bytes, os.PathLike, Mapping)):
        raise TypeError(
            "detach() takes a list of the program and its arguments, as in "
            f'detach(["convert", "a.png", "a.jpg"]), not {type(argv).__name__}. No '
            "shell splits a string; use shlex.split() for that."
        )
    argv = list(argv)
    if not argv:
        raise ValueError("detach() needs a program to start; the list is empty")
    words = [_encode(word) for word in argv]
    if not words[0]:
        raise ValueError("detach() needs a program to start; its name is empty")
    variables = _own_environment() if env is None else _encode_all(env)
    return argv[0], marshal.dumps(
        (
            _candidates(words[0], variables),
            words,
            variables,
            None if cwd is None else _encode(cwd),
            _catchable(),
        ),
        2,  # any Python 3 reads that
    )


def _encode(value: Word) -> bytes:
    encoded = os.fsencode(value)
    if b"\0" in encoded:
        raise ValueError("detach() was given a string with a null byte in it")
    return encoded


def _encode_all(env: Mapping[str | bytes, str | bytes]) -> dict[bytes, bytes]:
    variables = {_encode(name): _encode(value) for name, value in env.items()}
    if any(not name or b"=" in name for name in variables):
        raise ValueError("detach() was given an invalid environment variable name")
    return variables


def _own_environment() -> dict[bytes, bytes]:
    # What os.environ is made of. It is copied in C, so another thread may safely change
    # it meanwhile. A variable without a name can be inherited, but not passed on.
    copy = dict(posix.environ)
    copy.pop(b"", None)
    return copy


def _candidates(program: bytes, variables: Mapping[bytes, bytes]) -> list[bytes]:
    """The paths where the program may be, in the order in which subprocess looks."""
    if b"/" in program:
        return [program]
    path = variables.get(b"PATH", os.fsencode(os.defpath))
    return [os.path.join(directory, program) for directory in path.split(b":")]


def _catchable() -> list[int]:
    """The signals that a process can ignore, so that its child ignores them, too."""
    return [
        int(number)
        for number in signal.valid_signals()
        if number not in (signal.SIGKILL, signal.SIGSTOP)
    ]


def _open(log: Word | None, fds: list[int]) -> None:
    """Add the log, or the null device, to the list."""
    # First fill the numbers 0 to 2, which a daemon may have closed. Otherwise, what
    # another thread prints would go to a descriptor of ours.
    while not fds or fds[-1] <= 2:
        _note(fds, os.open, os.devnull, os.O_RDWR)
    if log is not None:
        # O_NONBLOCK: it may be a FIFO without a reader.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK
        _note(fds, os.open, log, flags, 0o600)
        os.set_blocking(fds[-1], True)


def _note(results: list[int], function: Callable[..., int], *arguments: Any) -> None:
    """Call ``function``, and add what it returns to the list.

    There is no bytecode boundary between the two. There, a signal handler could raise,
    such as that of a time limit, and we would not know what to close or to wait for.
    """
    results.extend(map(function, *([argument] for argument in arguments)))


def _for_each(
    values: list[int], function: Callable[..., object], *arguments: Any
) -> Callable[[], object]:
    """What calls ``function`` with each value that the list has by then, again without
    a bytecode boundary.

    It is made beforehand, as a handler could raise as soon as ``map()`` has returned.
    """
    return partial(deque, map(function, values, *map(repeat, arguments)), 0)


def _ask(request: bytes, output: int) -> tuple[int, int, bool]:
    """Have the command started. Returns its id or 0, the errno, and whether the errno
    is about ``cwd``."""
    # A socket, not pipes: if gevent has patched it, other greenlets keep running.
    ours, theirs = socket.socketpair()
    starter: list[int] = []
    # Each is done twice, as is the close: a signal handler may interrupt the first.
    wait, wait_again = (_for_each(starter, posix.waitpid, 0) for _ in range(2))
    answer = b""
    try:
        try:
            with ours:
                with theirs:
                    os.set_blocking(theirs.fileno(), True)  # gevent's is not
                    _spawn_starter(theirs.fileno(), output, starter)
                ours.settimeout(None)  # in spite of socket.setdefaulttimeout()
                ours.sendall(request)
                ours.shutdown(socket.SHUT_WR)
                # Not to the end of the stream: another thread's fork may keep it open.
                while not answer.endswith(b"\n") and (chunk := ours.recv(1024)):
                    answer += chunk
        except ConnectionError:
            pass  # the starter has already ended
        finally:
            ours.close()
    finally:
        try:
            wait()
        except ChildProcessError:
            pass  # SIGCHLD is ignored, or something waits for any child, as libev does
        except BaseException:
            with suppress(ChildProcessError):
                wait_again()
            raise
    if not answer:
        raise ChildProcessError(
            errno.ECHILD,
            "the interpreter that should start the command ended without an answer; "
            "the log of the command, if there is one, may say why",
            _interpreter(),
        )
    pid, number, of_cwd = map(int, answer.split())
    return pid, number, bool(of_cwd)


def _spawn_starter(stdin: int, output: int, starter: list[int]) -> None:
    """Start the starter, and add its process id to the list."""
    interpreter = _interpreter()
    # Not os.posix_spawn(): gevent patches it, and then it fails in threads.
    spawn = partial(
        posix.posix_spawn,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, stdin, 0),
            (os.POSIX_SPAWN_DUP2, output, 1),
            (os.POSIX_SPAWN_DUP2, output, 2),
        ],
        setsid=True,  # control-C on the terminal is for the server
    )
    command = [interpreter, "-I", "-S", "-c", STARTER]
    _note(starter, spawn, interpreter, command, _own_environment())


_PYTHON = re.compile(r"(python|pypy)[\d.]*t?")


def _interpreter() -> str:
    """The path of a Python. In uWSGI, ``sys.executable`` is the server itself."""
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    executable = sys.executable or ""
    places = [
        executable if _PYTHON.fullmatch(os.path.basename(executable)) else "",
        os.path.join(sys.exec_prefix, "bin", name),
        os.path.join(sys.exec_prefix, "bin", "python3"),
        os.path.join(sys.base_exec_prefix, "bin", name),
    ]
    for place in places:
        if place and os.access(place, os.X_OK):
            return place
    raise FileNotFoundError(
        errno.ENOENT,
        "detach() needs a Python interpreter; set sys.executable to one",
        executable,
    )
