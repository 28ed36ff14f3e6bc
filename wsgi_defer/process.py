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
import signal
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeAlias

Path: TypeAlias = "str | bytes | os.PathLike[str] | os.PathLike[bytes]"
Text: TypeAlias = "str | bytes"

# What the interpreter between runs. It has its request on the socket that is its stdin,
# answers there, and ends. ``posix`` and ``marshal`` are built in: with ``os`` or
# ``subprocess``, it would take 3 or 25 ms more to begin.
STARTER = """
import marshal, posix

def answer(pid, number=0, of_cwd=False):
    try:
        posix.write(0, b"%d %d %d" % (pid, number, of_cwd))
    finally:
        posix._exit(0)

request = b""
while chunk := posix.read(0, 65536):
    request += chunk
try:
    paths, argv, env, cwd, signals = marshal.loads(request)
except (EOFError, ValueError, TypeError):  # cut short: who asked is gone
    posix._exit(1)
for fd in map(int, posix.listdir("/dev/fd")):
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
        if not number or error.errno not in (ENOENT, ENOTDIR):
            number = error.errno
answer(0, number)
"""
STARTER = STARTER.replace("ENOENT", str(errno.ENOENT))
STARTER = STARTER.replace("ENOTDIR", str(errno.ENOTDIR))


def detach(
    argv: Sequence[Path],
    *,
    cwd: Path | None = None,
    env: Mapping[Text, Text] | None = None,
    log: Path | None = None,
) -> int:
    """Start a command that outlives the request and this process; return its id.

    Made to be deferred, ``defer(detach, ["convert", source, target])``, and it works
    in a view or a script as well. The command is in a session and a process group of
    its own, so that no signal to the server reaches it. Its stdin is the null device.
    It inherits no other descriptor, no blocked or ignored signal, and it never becomes
    a zombie of this process. Nobody here hears how it ends.

    ``argv``: the program, looked for in the ``PATH`` of ``env``, and its arguments. No
    shell reads them, and none of ours logs or errors has them: the program's name is
    all. ``cwd``: the directory it starts in. ``env``: the whole environment, in place
    of this process's. ``log``: a file that its output, stdout and stderr, is added to;
    without one, the output is dropped. A new one is for its owner alone (mode 600), as
    output may be private; one that is there keeps its mode. Its directory must exist. A
    path that is not absolute starts at this process's directory, not at ``cwd``.

    Raises the ``OSError`` of what fails: ``FileNotFoundError`` for a program, a ``cwd``
    or the directory of a ``log`` that does not exist, ``PermissionError``,
    ``NotADirectoryError``; ``TypeError`` if ``argv`` is one string; ``ValueError`` if
    it is empty, or for what no command can be given. Returns when the command runs,
    after some 20 ms. That is the start of an interpreter, meanwhile other threads run,
    and greenlets where gevent has patched ``socket``. Safe from any thread.
    """
    program, request = _request(argv, cwd, env)
    with _log_file(log) as output:
        pid, number, of_cwd = _ask(request, output)
    if not pid:
        named = cwd if of_cwd and cwd is not None else program
        raise OSError(number, os.strerror(number), os.fspath(named))
    return pid


def _request(
    argv: Sequence[Path], cwd: Path | None, env: Mapping[Text, Text] | None
) -> tuple[Path, bytes]:
    """The program's name, and all that the starter is told, checked."""
    if isinstance(argv, (str, bytes)):
        raise TypeError(
            "detach() takes a list of the program and its arguments, as in "
            'detach(["convert", "a.png", "a.jpg"]), not one string: there is no shell '
            "to split it. shlex.split() does that."
        )
    if not argv:
        raise ValueError("detach() needs a program to start; the list is empty")
    words = [_encode(word) for word in argv]
    if not words[0]:
        raise ValueError("detach() needs a program to start; its name is empty")
    variables = os.environb if env is None else _encode_all(env)
    return argv[0], marshal.dumps(
        (
            _candidates(words[0], variables),
            words,
            dict(variables),
            None if cwd is None else _encode(cwd),
            _catchable(),
        ),
        2,  # any Python 3 reads that
    )


def _encode(value: Path) -> bytes:
    encoded = os.fsencode(value)
    if b"\0" in encoded:
        raise ValueError("detach() was given a text with a null byte in it")
    return encoded


def _encode_all(env: Mapping[Text, Text]) -> dict[bytes, bytes]:
    variables = {_encode(name): _encode(value) for name, value in env.items()}
    if any(not name or b"=" in name for name in variables):
        raise ValueError("detach() was given an environment variable of no valid name")
    return variables


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


@contextmanager
def _log_file(log: Path | None) -> Iterator[int]:
    flags = os.O_WRONLY | os.O_APPEND
    if log is not None:
        flags |= os.O_CREAT
    fd = os.open(os.devnull if log is None else log, flags, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def _ask(request: bytes, output: int) -> tuple[int, int, bool]:
    """Have the command started: its id, or else an error, and whether it is of cwd."""
    # A socket rather than pipes: where gevent has patched it, other greenlets go on.
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            os.set_blocking(theirs.fileno(), True)  # gevent's is not
            starter = _spawn_starter(theirs.fileno(), output)
        answer = b""
        try:
            ours.settimeout(None)  # in spite of socket.setdefaulttimeout()
            ours.sendall(request)
            ours.shutdown(socket.SHUT_WR)
            while chunk := ours.recv(1024):
                answer += chunk
        except ConnectionError:
            pass  # it has ended already
        finally:
            ours.close()
            _reap(starter)
    if not answer:
        raise ChildProcessError(
            errno.ECHILD,
            "the interpreter that was to start the command ended without an answer; "
            "the log file of the command may say why",
            _interpreter(),
        )
    pid, number, of_cwd = map(int, answer.split())
    return pid, number, bool(of_cwd)


def _spawn_starter(stdin: int, output: int) -> int:
    # In a daemon without standard streams, these two have numbers of those, and one
    # would overwrite the other. All three are taken by now, so copies are above them.
    fds = [os.dup(stdin), os.dup(output)]
    try:
        interpreter = _interpreter()
        # Not os.posix_spawn(), which gevent patches, and which then fails in threads.
        return posix.posix_spawn(
            interpreter,
            [interpreter, "-I", "-S", "-c", STARTER],
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, fds[0], 0),
                (os.POSIX_SPAWN_DUP2, fds[1], 1),
                (os.POSIX_SPAWN_DUP2, fds[1], 2),
            ],
            setsid=True,  # control-C on the terminal is for the server
        )
    finally:
        for fd in fds:
            os.close(fd)


def _reap(starter: int) -> None:
    try:
        posix.waitpid(starter, 0)
    except ChildProcessError:
        pass  # SIGCHLD is ignored, or somebody waits for any child: libev does


def _interpreter() -> str:
    """A Python; ``sys.executable`` is the server itself in uWSGI."""
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    executable = sys.executable or ""
    places = [
        executable if "python" in os.path.basename(executable) else "",
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
