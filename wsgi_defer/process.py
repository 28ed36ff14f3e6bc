"""``detach()``: a command that outlives the request, and the worker.

A child that a worker starts by itself stays a zombie when it ends, until the worker
waits for it. So a second interpreter stands between: it is given the command, starts
it, answers with its id, and is gone. Nothing here forks this process, which has
threads, and whose memory may be large: both starts are ``posix_spawn()``.
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

Word: TypeAlias = "str | bytes | os.PathLike[str] | os.PathLike[bytes]"

# What the interpreter between runs. It has its request on the socket that is its stdin,
# answers there, and ends. Its imports are built in: with ``os`` or ``subprocess``, it
# would take 3 or 25 ms more to begin.
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

    Made to be deferred, ``defer(detach, ["convert", source, target])``, and it works
    in a view or a script as well. The command is in a session and a process group of
    its own, so that no signal to the server reaches it. Its stdin is the null device.
    It inherits no other descriptor, and no blocked or ignored signal. It is no child of
    this process, so it leaves no zombie here, unless this is the first process of a
    container. Nobody here hears how it ends.

    ``argv``: the program, looked for in the ``PATH`` of ``env``, and its arguments. No
    shell reads them, and none of ours logs or errors has them: the program's name is
    all. ``cwd``: the directory it starts in. ``env``: the whole environment, in place
    of this process's. ``log``: a file that its output, stdout and stderr, is added to;
    without one, the output is dropped. A new one is for its owner alone (mode 600), as
    output may be private; one that is there keeps its mode. Its directory must exist.
    ``cwd`` and ``log`` start at this process's directory, if they are not absolute; a
    program with a slash in its name starts at ``cwd``.

    A time limit or a signal that ends it early may come when the command has begun.

    Raises the ``OSError`` of what fails: ``FileNotFoundError`` for a program, a ``cwd``
    or the directory of a ``log`` that does not exist, ``PermissionError``,
    ``NotADirectoryError``; ``TypeError`` if ``argv`` is no list; ``ValueError`` if it
    is empty, or for what no command can be given. Returns when the command runs,
    after some 20 ms. That is the start of an interpreter, meanwhile other threads run,
    and greenlets where gevent has patched ``socket``. Safe from any thread.
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
    """The program's name, and all that the starter is told, checked."""
    if isinstance(argv, (str, bytes, os.PathLike, Mapping)):
        raise TypeError(
            "detach() takes a list of the program and its arguments, as in "
            f'detach(["convert", "a.png", "a.jpg"]), not {type(argv).__name__}. There '
            "is no shell to split a string; shlex.split() does that."
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
        raise ValueError("detach() was given a text with a null byte in it")
    return encoded


def _encode_all(env: Mapping[str | bytes, str | bytes]) -> dict[bytes, bytes]:
    variables = {_encode(name): _encode(value) for name, value in env.items()}
    if any(not name or b"=" in name for name in variables):
        raise ValueError("detach() was given an environment variable of no valid name")
    return variables


def _own_environment() -> dict[bytes, bytes]:
    # What os.environ is made of. Its copy is made in C, so another thread may change it
    # meanwhile. A variable without a name can be inherited, but not handed on.
    copy = dict(posix.environ)
    copy.pop(b"", None)
    return copy


def _candidates(program: bytes, variables: Mapping[bytes, bytes]) -> list[bytes]:
    """Where the program may be, as subprocess looks for it."""
    if b"/" in program:
        return [program]
    path = variables.get(b"PATH", os.fsencode(os.defpath))
    return [os.path.join(directory, program) for directory in path.split(b":")]


def _catchable() -> list[int]:
    """The signals that a process may ignore, and so could hand down ignored."""
    return [
        int(number)
        for number in signal.valid_signals()
        if number not in (signal.SIGKILL, signal.SIGSTOP)
    ]


def _open(log: Word | None, fds: list[int]) -> None:
    """Add the log, or the null device, to the list."""
    # First the numbers 0 to 2, in a daemon that has closed them. Otherwise what another
    # thread prints would go to a descriptor of ours.
    while not fds or fds[-1] <= 2:
        _note(fds, os.open, os.devnull, os.O_RDWR)
    if log is not None:
        # O_NONBLOCK: it may be a FIFO without a reader.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK
        _note(fds, os.open, log, flags, 0o600)
        os.set_blocking(fds[-1], True)


def _note(results: list[int], function: Callable[..., int], *arguments: Any) -> None:
    """Call it, and add what it returns to the list.

    There is no step of Python between the two: there, a signal's handler could raise,
    that of a time limit for one, and nobody would know what to close, or to wait for.
    """
    results.extend(map(function, *([argument] for argument in arguments)))


def _for_each(
    values: list[int], function: Callable[..., object], *arguments: Any
) -> Callable[[], object]:
    """What calls it with each value that the list has by then, without such a step.

    It is made beforehand, as a handler could raise as soon as ``map()`` has returned.
    """
    return partial(deque, map(function, values, *map(repeat, arguments)), 0)


def _ask(request: bytes, output: int) -> tuple[int, int, bool]:
    """Have the command started: its id, or else an error, and whether it is of cwd."""
    # A socket rather than pipes: where gevent has patched it, other greenlets go on.
    ours, theirs = socket.socketpair()
    starter: list[int] = []
    # Each of these is done twice, as is the close: a handler may raise in the first.
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
                # Not up to the end of the stream: a fork of another thread may hold it.
                while not answer.endswith(b"\n") and (chunk := ours.recv(1024)):
                    answer += chunk
        except ConnectionError:
            pass  # it has ended already
        finally:
            ours.close()
    finally:
        try:
            wait()
        except ChildProcessError:
            pass  # SIGCHLD is ignored, or somebody waits for any child: libev does
        except BaseException:
            with suppress(ChildProcessError):
                wait_again()
            raise
    if not answer:
        raise ChildProcessError(
            errno.ECHILD,
            "the interpreter that was to start the command ended without an answer; "
            "the log of the command, if there is one, may say why",
            _interpreter(),
        )
    pid, number, of_cwd = map(int, answer.split())
    return pid, number, bool(of_cwd)


def _spawn_starter(stdin: int, output: int, starter: list[int]) -> None:
    """Put its process id into the list."""
    interpreter = _interpreter()
    # Not os.posix_spawn(), which gevent patches, and which then fails in threads.
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
    """A Python; ``sys.executable`` is the server itself in uWSGI."""
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
        "detach() needs a Python interpreter, and sys.executable is none; set it",
        executable,
    )
