"""A command that outlives the request, by itself."""

from __future__ import annotations

import json
import logging
import os
import posix
import resource
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from wsgi_defer import defer, deferring, process
from wsgi_defer.process import detach

from ..helpers.programs import HOME, PYTHON, children, descriptors, is_running
from ..helpers.steps import Interrupted, each_step_of
from ..helpers.waiting import PATIENCE, until

# It tells all that it has from us, in one line.
REPORT = """
import json, os, sys
fds = {}
for fd in os.listdir("/proc/self/fd"):
    try:
        fds[int(fd)] = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        pass
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "pid": os.getpid(), "parent": os.getppid(), "session": os.getsid(0),
    "group": os.getpgid(0), "cwd": os.getcwd(), "env": dict(os.environ), "fds": fds,
    "blocked": int(status["SigBlk"], 16), "ignored": int(status["SigIgn"], 16),
    "argv": sys.argv[1:],
}))
"""
SLEEP = [*PYTHON, "import time; time.sleep(600)"]


@pytest.fixture
def log(tmp_path):
    """A log file that is not there yet."""
    return tmp_path / "command.log"


@pytest.fixture
def started():
    """A list of the ids of commands, which are killed at the end."""
    pids = []
    yield pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def lines(log, count=1):
    """The lines of that file, as soon as it has so many."""
    until(lambda: log.read_text().count("\n") >= count)
    return log.read_text().splitlines()


def report(log, *arguments, **options):
    """What a command has from us; its id is checked on the way."""
    before = log.read_text().count("\n") if log.exists() else 0
    pid = detach([*PYTHON, REPORT, *arguments], log=log, **options)
    said = json.loads(lines(log, before + 1)[-1])
    assert said["pid"] == pid
    return said


@pytest.fixture(autouse=True)
def nothing_is_left():
    """Each detach, whatever becomes of it, leaves no child and no descriptor."""
    before, files = children(), descriptors()
    yield
    # Not the same: what a test before has left may go meanwhile.
    assert children() <= before
    assert descriptors() <= files


def test_a_session_and_a_group_of_its_own(log):
    """No signal to us, or to our group, reaches it; the id is the command's own."""
    said = report(log)
    assert said["session"] == said["group"] == said["pid"]
    assert said["session"] != os.getsid(0)


def test_it_is_no_child_of_ours(started):
    """So it is nobody that we would have to wait for, also while it runs."""
    before = children()
    started.append(detach(SLEEP))
    assert children() <= before
    with pytest.raises(ChildProcessError):
        os.waitpid(started[0], os.WNOHANG)


def test_no_descriptor_is_inherited(log):
    """Not those that are meant to be, either: listening sockets, pipes, files."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.set_inheritable(True)
    pipe = os.pipe()
    for fd in pipe:
        os.set_inheritable(fd, True)
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    high = os.dup2(pipe[0], min(700, most - 1))
    try:
        said = report(log)
    finally:
        listener.close()
        for fd in (*pipe, high):
            os.close(fd)
    assert said["fds"] == {"0": os.devnull, "1": str(log), "2": str(log)}


def test_output_is_dropped_without_a_log(started):
    """The three are the null device."""
    started.append(detach(SLEEP))
    for fd in range(3):
        assert os.readlink(f"/proc/{started[0]}/fd/{fd}") == os.devnull


def test_output_is_added_to_the_log(log):
    """Both streams, after what is there; its mode stays."""
    log.write_text("before\n")
    log.chmod(0o640)
    detach([*PYTHON, "import os; os.write(1, b'out\\n'); os.write(2, b'err\\n')"],
           log=str(log))  # fmt: skip
    assert lines(log, 3) == ["before", "out", "err"]
    assert log.stat().st_mode & 0o777 == 0o640


def test_a_new_log_is_private(log):
    """Whatever the umask is."""
    before = os.umask(0)
    try:
        detach(["true"], log=os.fsencode(log))
    finally:
        os.umask(before)
    assert log.stat().st_mode & 0o777 == 0o600


def test_the_environment(log, monkeypatch):
    """Ours as it is now, or in its place what is given, and nothing else."""
    monkeypatch.setenv("WSGI_DEFER_TEST", "ours")
    assert report(log)["env"]["WSGI_DEFER_TEST"] == "ours"
    env = {"ONE": "1", b"TWO": b"\xe4"}
    said = report(log, env=env)["env"]
    said.pop("LC_CTYPE", None)  # which the Python of the command adds
    assert said == {"ONE": "1", "TWO": "\udce4"}


def test_the_program_is_looked_for_in_the_path_of_its_environment(tmp_path, log):
    """Past directories that are none, and files that cannot be run."""
    for name, mode in (("first", 0o600), ("second", 0o700)):
        (tmp_path / name).mkdir()
        program = tmp_path / name / "program"
        program.write_text(f"#!{sys.executable} -IS\nprint('ran')\n")
        program.chmod(mode)
    (tmp_path / "file").touch()
    path = ":".join(str(tmp_path / name) for name in ("no", "file", "first", "second"))
    detach(["program"], env={"PATH": path}, log=log)
    assert lines(log) == ["ran"]
    for names in (("first", "no"), ("no", "first")):
        path = ":".join(str(tmp_path / name) for name in names)
        with pytest.raises(PermissionError):
            detach(["program"], env={"PATH": path})
    with pytest.raises(FileNotFoundError):
        detach(["program"], env={})


def test_the_directory(tmp_path, log):
    """Where it starts; a program of no absolute path is looked for from there."""
    (tmp_path / "program").symlink_to(sys.executable)
    pid = detach(["./program", *PYTHON[1:], REPORT], cwd=tmp_path, log=log)
    said = json.loads(lines(log)[0])
    assert (said["pid"], said["cwd"]) == (pid, str(tmp_path))


def test_arguments_arrive_as_they_are(log):
    """No shell, no encoding, no limit but the kernel's; paths are arguments, too."""
    odd = ["", "a b", "$HOME; `id` *", '"', "\n", "\udce4", "ä"]
    assert report(log, *odd, log)["argv"] == [*odd, str(log)]
    many = ["x" * 10_000] * 100
    assert report(log, *many)["argv"] == many


@pytest.mark.parametrize(
    ("argv", "options", "error", "named"),
    [
        (["no-such-program", "secret"], {}, FileNotFoundError, "no-such-program"),
        (["./no/such", "secret"], {}, FileNotFoundError, "./no/such"),
        (["/etc/passwd", "secret"], {}, PermissionError, "/etc/passwd"),
        (["/etc/passwd/x", "secret"], {}, NotADirectoryError, "/etc/passwd/x"),
        (["true", "secret"], {"cwd": "/no/dir"}, FileNotFoundError, "/no/dir"),
        (["true", "secret"], {"cwd": "/etc/passwd"}, NotADirectoryError, "/etc/passwd"),
        (["true", "secret"], {"log": "/no/dir/log"}, FileNotFoundError, "/no/dir/log"),
        (["true", "secret"], {"log": "/etc"}, IsADirectoryError, "/etc"),
        (["true", "secret" * 999_999], {}, OSError, "true"),
    ],
)
def test_what_cannot_be_started(argv, options, error, named):
    """The very error, with the path that it is about, and no argument."""
    with pytest.raises(error) as raised:
        detach(argv, **options)
    assert raised.value.filename == named
    assert "secret" not in str(raised.value)


def test_signals_are_as_new(log):
    """None that we block or ignore is blocked or ignored in the command."""
    numbers = [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGCHLD,
               signal.SIGUSR1, signal.SIGPIPE, signal.SIGRTMIN]  # fmt: skip
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    # A Python would ignore SIGPIPE by itself.
    try:
        detach(["grep", "Sig[BI]", "/proc/self/status"], log=log)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)
    said = dict(line.split(":\t") for line in lines(log, 2))
    # glibc's posix_spawn() lets the two be ignored that it keeps for itself, 32 and 33.
    assert int(said["SigIgn"], 16) & ~(1 << 31 | 1 << 32) == 0
    assert int(said["SigBlk"], 16) == 0


def test_sigterm_ends_it():
    """Whoever has the id can stop it as any other command."""
    pid = detach(SLEEP)
    os.kill(pid, signal.SIGTERM)
    until(lambda: not is_running(pid))


def test_an_app_that_ignores_sigchld_or_waits_for_any_child(log, started):
    """Who starts our command may be waited for by somebody else."""
    got = []

    def wait_for_any(number, frame):
        try:
            while True:
                got.append(os.waitpid(-1, os.WNOHANG)[0])
                if not got[-1]:
                    break
        except ChildProcessError:
            pass

    before = signal.getsignal(signal.SIGCHLD)
    try:
        for handler in (signal.SIG_IGN, wait_for_any):
            signal.signal(signal.SIGCHLD, handler)
            started.append(detach(SLEEP))
            with pytest.raises(FileNotFoundError):
                detach(["no-such-program"])
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert not set(started) & set(got)
    assert all(map(is_running, started))


def test_many_from_many_threads(log):
    """Each has an id of its own, and nothing of it stays here; see the fixture."""
    threads = set(threading.enumerate())
    with ThreadPoolExecutor(8) as executor:
        pids = list(executor.map(
            lambda n: detach([*PYTHON, f"print({n})"], log=log), range(60)
        ))  # fmt: skip
    assert len(set(pids)) == 60
    assert sorted(map(int, lines(log, 60))) == list(range(60))
    assert set(threading.enumerate()) <= threads


WAITS = """
import os, time
open({asked!r}, "w").close()
deadline = time.monotonic() + {patience}
while not os.path.exists({go!r}):
    assert time.monotonic() < deadline
    time.sleep(0.005)
"""


def test_other_threads_run_meanwhile(tmp_path, monkeypatch):
    """The wait for the interpreter is not theirs: here, it waits for one of them."""
    asked, go = tmp_path / "asked", tmp_path / "go"
    waits = WAITS.format(asked=str(asked), go=str(go), patience=PATIENCE)
    monkeypatch.setattr(process, "STARTER", waits + process.STARTER)

    def work():
        until(asked.exists)
        go.touch()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert detach(["true"])
    finally:
        thread.join()


def test_a_time_limit_on_sockets_is_not_ours():
    """socket.setdefaulttimeout() is for the app's own."""
    socket.setdefaulttimeout(0.000_001)
    try:
        detach(["true"])
    finally:
        socket.setdefaulttimeout(None)


def test_a_socket_that_does_not_block_does(monkeypatch):
    """As those of gevent: the interpreter between waits for all of its request."""
    blocking = []

    def socketpair():
        sockets = pair()
        for each in sockets:
            os.set_blocking(each.fileno(), False)
        return sockets

    def posix_spawn(*arguments, file_actions, **options):
        blocking.append(os.get_blocking(file_actions[0][1]))
        return spawn(*arguments, file_actions=file_actions, **options)

    pair, spawn = socket.socketpair, posix.posix_spawn
    monkeypatch.setattr(socket, "socketpair", socketpair)
    monkeypatch.setattr(posix, "posix_spawn", posix_spawn)
    detach(["true"])
    assert blocking == [True]


@pytest.mark.parametrize("method", ["sendall", "shutdown", "recv"])
def test_an_order_to_stop_leaves_nothing(method, log, monkeypatch):
    """An exception while we wait goes up, and the interpreter ends silently."""

    def interrupt(*arguments):
        raise SystemExit(1)

    interrupted = type("Interrupted", (socket.socket,), {method: interrupt})

    def socketpair():
        return tuple(interrupted(fileno=each.detach()) for each in pair())

    pair = socket.socketpair
    monkeypatch.setattr(socket, "socketpair", socketpair)
    with pytest.raises(SystemExit):
        detach(["true"], log=log)
    assert log.read_text() == ""


def test_a_signal_at_any_step_leaves_nothing(log, monkeypatch):
    """A handler raises, as that of a time limit does: no child, no descriptor stays."""
    before, files = children(), descriptors()
    made = socket.socketpair
    for step in each_step_of(process.__file__, socket.__file__):
        # In this one there are steps at which descriptors are in nobody's hands.
        pair = made()
        monkeypatch.setattr(socket, "socketpair", lambda pair=pair: pair)
        with suppress(Interrupted), step:
            detach(["true"], log=log)
        for end in pair:  # if it has not come to them
            end.close()
        assert children() <= before, step.at
        assert descriptors() <= files, step.at


# A socket that was not yet in our hands is closed when it is dropped, with a warning.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("longest", [0.002, 0.016])
def test_a_time_limit_at_any_moment_leaves_nothing(longest, caplog, monkeypatch):
    """Whatever line of ours it hits, no child and no descriptor is left."""
    # There are lines in this one, too, at which descriptors are in nobody's hands.
    pairs = [socket.socketpair() for _ in range(30)]
    monkeypatch.setattr(socket, "socketpair", pairs.pop)
    for step in range(30):
        with deferring():
            defer(detach, ["true"]).time_limit(longest * (step + 1) / 30)
    assert "TimeLimitError" in caplog.text
    caplog.clear()  # its tracebacks hold what the calls had
    for pair in pairs:  # those that no call has come to
        for end in pair:
            end.close()


def test_a_process_at_its_limit_of_descriptors():
    """A failure keeps none, so it works again when there are some."""
    code = f"""
        import os, resource, sys
        sys.path.insert(0, {HOME!r})
        from wsgi_defer.process import detach
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
        held = []
        try:
            while True:
                held.append(os.dup(0))
        except OSError:
            pass
        for _ in range(20):
            try:
                detach(["true"])
            except OSError as error:
                print(error.strerror)
            os.close(held.pop())
    """
    said = subprocess.run([*PYTHON, textwrap.dedent(code)], check=True, timeout=60,
                          stdout=subprocess.PIPE, text=True).stdout  # fmt: skip
    assert set(said.splitlines()) == {"Too many open files"}
    assert said.count("\n") < 10


@pytest.mark.filterwarnings("ignore:.*is multi-threaded:DeprecationWarning")
def test_another_thread_forks_meanwhile():
    """Its child has a copy of our socket, and we do not wait for its end."""
    pair, forked = socket.socketpair, []

    def socketpair():
        made = pair()
        forked.append(os.fork())
        if not forked[-1]:
            signal.pause()
        return made

    socket.socketpair = socketpair
    try:
        assert detach(["true"])
    finally:
        socket.socketpair = pair
        os.kill(forked[0], signal.SIGKILL)
        os.waitpid(forked[0], 0)


def test_a_fifo_that_nobody_reads(tmp_path):
    """It is an error, and nothing waits for a reader."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(OSError, match="No such device"):
        detach(["true"], log=fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    pid = detach([*PYTHON, "import os; print(os.get_blocking(1))"], log=fifo)
    until(lambda: not is_running(pid))
    assert os.read(reader, 100) == b"True\n"
    os.close(reader)


def test_a_daemon_without_standard_streams(tmp_path, log):
    """They are closed, and another thread prints all the same."""
    code = f"""
        import os, sys, threading
        sys.path.insert(0, {HOME!r})
        from wsgi_defer.process import detach
        os.closerange(0, 3)

        def chatter():
            while True:
                for fd in (0, 1, 2):
                    try:
                        os.write(fd, b"stray")
                    except OSError:
                        pass

        threading.Thread(target=chatter, daemon=True).start()
        for _ in range(10):
            detach({[*PYTHON, REPORT]!r}, log={str(log)!r})
    """
    subprocess.run([*PYTHON, textwrap.dedent(code)], check=True, timeout=60)
    for line in lines(log, 10):
        fds = json.loads(line)["fds"]
        assert fds == {"0": os.devnull, "1": str(log), "2": str(log)}


def test_it_outlives_us(started):
    """Also a SIGKILL to our whole process group."""
    code = f"""
        import signal, sys
        sys.path.insert(0, {HOME!r})
        from wsgi_defer.process import detach
        print(detach({SLEEP!r}), flush=True)
        signal.pause()
    """
    starter = subprocess.Popen(
        [*PYTHON, textwrap.dedent(code)], stdout=subprocess.PIPE, start_new_session=True
    )
    with starter:
        started.append(int(starter.stdout.readline()))
        os.killpg(starter.pid, signal.SIGKILL)
        # To the end of the stream: nobody else has its other end.
        assert starter.stdout.read() == b""
    assert is_running(started[0])


def test_a_server_that_is_the_executable(tmp_path, monkeypatch):
    """In uWSGI, sys.executable is uWSGI; with none at all, it says so."""
    true = tmp_path / "uwsgi_python3"
    true.symlink_to("/bin/true")
    for server in ("/bin/true", str(true)):
        monkeypatch.setattr(sys, "executable", server)
        assert detach(["true"])
    for name in ("exec_prefix", "base_exec_prefix"):
        monkeypatch.setattr(sys, name, "/no/prefix")
    with pytest.raises(FileNotFoundError, match=r"needs a Python interpreter"):
        detach(["true", "secret"])


@pytest.mark.parametrize("starter", ["import posix; posix._exit(1)", "1/0"])
def test_an_interpreter_that_fails(starter, log, monkeypatch):
    """It is an error of its own; what it had to say is in the log."""
    monkeypatch.setattr(process, "STARTER", starter)
    with pytest.raises(ChildProcessError, match="ended without an answer"):
        detach(["true", "secret" * 100_000], log=log)
    assert ("ZeroDivisionError" in log.read_text()) == (starter == "1/0")


def test_an_interpreter_that_is_asked_half(log):
    """Who asked it was killed meanwhile: it starts nothing, and is silent."""
    done = subprocess.run(
        [*PYTHON, process.STARTER], input=b"[", capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


def test_another_thread_changes_the_environment(monkeypatch):
    """And one variable has no name, as can be inherited."""
    monkeypatch.setitem(posix.environ, b"", b"x")
    ended = threading.Event()

    def change():
        number = 0
        while not ended.is_set():
            number += 1
            posix.environ[b"CHANGED_%d" % (number % 50)] = b"x"
            posix.environ.pop(b"CHANGED_%d" % ((number + 25) % 50), None)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(30):
            detach(["true"])
    finally:
        ended.set()
        thread.join()
        for name in [name for name in posix.environ if name.startswith(b"CHANGED_")]:
            del posix.environ[name]


def test_deferred(log):
    """As it is meant to be used."""
    with deferring() as scope:
        defer(detach, [*PYTHON, "print('ran')"], log=log)
        assert not log.exists()
    assert lines(log) == ["ran"]
    assert scope.finished == 1


def test_a_deferred_one_that_fails_is_logged_without_its_arguments(caplog):
    """The program is named, and what it was to be told is not."""
    arguments = ["sec", "ret"]
    with caplog.at_level(logging.DEBUG), deferring() as scope:
        secret = "".join(arguments)
        defer(detach, ["no-such-program", secret], env={"KEY": secret})
    assert scope.failed == 1
    assert "no-such-program" in caplog.text
    assert "".join(arguments) not in caplog.text
