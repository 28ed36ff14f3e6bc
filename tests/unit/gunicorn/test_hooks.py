"""gunicorn's hooks and host, with a worker that is only described.

What real workers do with them is in tests/life.
"""

from __future__ import annotations

import inspect
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from gunicorn import config
from gunicorn.app import base
from gunicorn.workers import gthread

from wsgi_defer import DeferMiddleware, background, defer, deferring, gunicorn
from wsgi_defer._calls.drain import report_lost
from wsgi_defer._runtime import host
from wsgi_defer.gunicorn import _hooks, _host
from wsgi_defer.gunicorn._host import GeventHost, GunicornHost, host_for, time_for_calls
from wsgi_defer.ledger import Ledger, Left, _snapshot
from wsgi_defer.observers._observers import observe_process, stop_observing

from ...helpers.client import get, text_app
from ...helpers.waiting import PATIENCE, until


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture
def worker(listener):
    """What gunicorn's workers have, and our host reads."""
    with tempfile.TemporaryFile() as heart:
        yield SimpleNamespace(
            tmp=heart, sockets=[listener], alive=True, age=7, pid=os.getpid(),
            cfg=SimpleNamespace(graceful_timeout=30, timeout=60),
            log=logging.getLogger("gunicorn.error"),
        )  # fmt: skip


@pytest.fixture
def server(monkeypatch):
    return make_server(monkeypatch)


def make_server(monkeypatch):
    """The master, as its hooks see it; nothing of it is left behind."""
    monkeypatch.setattr(_hooks, "_masters", {})
    monkeypatch.setattr(_snapshot._known, "shared", None)
    return SimpleNamespace(
        WORKERS={}, log=logging.getLogger("gunicorn.error"), cfg=config.Config()
    )


@pytest.fixture
def attached(worker):
    """This process as a worker, and afterwards none."""
    before = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, lambda *args: setattr(worker, "alive", False))
    gunicorn.post_worker_init(worker)
    yield host.current
    signal.signal(signal.SIGTERM, before)
    _hooks._detach()


def beat_of(worker):
    return os.fstat(worker.tmp.fileno()).st_mtime


def test_the_heart_beats_between_calls(attached, worker, ran, monkeypatch):
    """For the main thread only: another one may live while that is stuck."""
    monkeypatch.setattr("wsgi_defer.gunicorn._host.BEAT", PATIENCE)
    os.utime(worker.tmp.fileno(), (1, 1))
    thread = threading.Thread(target=attached.beat)
    thread.start()
    thread.join()
    assert beat_of(worker) == 1
    attached.beat(thread=-1)
    assert beat_of(worker) == 1
    with deferring():
        defer(lambda: ran.append(beat_of(worker)))
    assert abs(ran[0] - time.monotonic()) < 5
    os.utime(worker.tmp.fileno(), (1, 1))
    attached.beat()  # so soon after the last one, it is of no use
    assert beat_of(worker) == 1
    worker.tmp.close()  # as gunicorn does before worker_exit
    attached._next_beat = 0
    attached.beat()


def test_a_heart_that_cannot_beat(attached):
    """gunicorn is to complain; the calls run."""
    os.close(attached._heart)
    attached.beat()
    attached._heart = os.dup(0)


def test_patience(attached, worker):
    """What is left of the timeout since the last beat, with a second to answer."""

    def beat(how, *args):
        """When that was, between these two."""
        before = time.time()
        how(*args)
        return before, time.time()

    def check(patience, beaten):
        """It is that, but for what has gone by since that beat."""
        before = time.time()
        found = attached.patience()
        # The file's clock ticks some hundred times a second.
        assert patience - (time.time() - beaten[0]) - 0.02 < found
        assert found <= patience - (before - beaten[1]) + 0.02

    beaten = beat(os.utime, worker.tmp.fileno(), (1, 1))
    check(59, beaten)
    worker.cfg.timeout = 3
    check(2.4, beaten)
    time.sleep(0.05)
    check(2.4, beaten)
    check(2.4, beat(attached.beat))
    worker.cfg.timeout = 0  # for ever
    assert attached.patience() is None
    worker.alive = False  # for graceful_timeout
    assert 29 < attached.patience() <= 29.5
    worker.cfg.timeout = 3
    assert attached.patience() < 2.5


def test_patience_beside_the_main_thread(attached, worker):
    """Another thread may wait, and a greenlet: the heart beats on, up to TERM."""
    greenlets = GeventHost(worker)
    worker.cfg.timeout = 3

    def found():
        with ThreadPoolExecutor(1) as thread:
            other = thread.submit(attached.patience).result()
        return other, greenlets.patience()

    assert found() == (None, None)
    worker.alive = False  # for graceful_timeout
    assert all(29 < seconds <= 29.5 for seconds in found())
    greenlets.close()


def test_attached_once(attached, worker):
    """The hook and the worker class both do it."""
    _hooks.attach(worker)
    assert host.current is attached
    assert not attached.recorded  # no master of ours


def test_somebody_waits(attached, listener):
    """A client that has connected, and that nobody has accepted."""
    assert not attached.client_waiting()
    with socket.create_connection(listener.getsockname()):
        until(attached.client_waiting)


def test_many_threads_ask(attached):
    """At the same time, as the threads of a ThreadWorker do."""
    errors = []

    def ask():
        try:
            for _ in range(2000):
                attached.client_waiting()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


@pytest.mark.parametrize("when_busy", ["inline", "thread"])
def test_when_busy(attached, listener, ran, when_busy):
    """The rest goes to the background thread, or is finished first, by choice."""

    def note():
        ran.append(threading.current_thread() is threading.main_thread())

    def connect():
        note()
        clients.append(socket.create_connection(listener.getsockname()))
        until(attached.client_waiting)

    clients = []
    app = DeferMiddleware(
        text_app(lambda: [defer(call) for call in (note, connect, note, note)]),
        when_busy=when_busy,
    )
    get(app)
    assert background.join(10)
    clients[0].close()
    here = when_busy == "inline"
    assert ran == [True, True, here, here]


def test_the_time_that_is_left(attached, worker):
    """From TERM on, what graceful_timeout says; gunicorn's own handler is called."""
    assert attached.time_left() is None
    assert time_for_calls() == 0
    os.kill(os.getpid(), signal.SIGTERM)
    left = attached.time_left()
    assert 25 < left <= 29.5
    os.kill(os.getpid(), signal.SIGTERM)
    assert attached.time_left() <= left  # not from the second one
    assert 25 < time_for_calls() < 30


@pytest.fixture
def recorded(attached):
    """The worker has a page of the ledger."""
    ledger = Ledger(1)
    recorder = attached.recorder = ledger.recorder(ledger.take_page())
    observe_process(recorder)
    yield attached
    stop_observing(recorder)


def terminate(recorded, caplog):
    """TERM, and what the log then says of calls."""
    os.kill(os.getpid(), signal.SIGTERM)
    until(lambda: "was told to stop" in caplog.text)
    [line] = [each for each in caplog.messages if "was told to stop" in each]
    return line


def test_term_tells_what_is_left(recorded, caplog, monkeypatch):
    """At once, as KILL may come before the end: how many there are, and which run."""
    monkeypatch.setattr(_host, "monotonic", lambda: 100.0)  # no time passes
    lines = []
    with deferring():
        defer(lambda: lines.append(terminate(recorded, caplog))).named(
            "two\nlines \x1b"
        )
        defer(print, "secret").named("waits")
        defer(int)
    start, _, rest = lines[0].partition(" s; running: ")
    begins, _, seconds = start.partition(" was told to stop and has 3 deferred calls ")
    assert begins == f"wsgi_defer: worker {os.getpid()}"
    assert seconds == "to finish in 29.5"
    assert rest.startswith("two\\nlines \\x1b (for ")
    os.kill(os.getpid(), signal.SIGTERM)
    assert caplog.text.count("was told to stop") == 1


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (1, "1 deferred call to finish in 0.0 s; running: 1 (for 0.0 s)"),
        (3, "3 (for 0.0 s)"),
        (5, "running: 1 (for 0.0 s), 2 (for 0.0 s), 3 (for 0.0 s), 2 more"),
    ],
)
def test_calls_of_several_threads(recorded, worker, caplog, number, says):
    """Some of those that run are named."""
    calls = [Left(str(each + 1), "", True, 0.0) for each in range(number)]
    recorded.recorder = SimpleNamespace(left=lambda: (calls, 0))
    worker.alive, recorded._stopped_at = False, 0.0
    recorded.tell_what_is_left()
    assert says in caplog.text


def test_calls_that_only_wait(recorded, caplog):
    """And such as the ledger has no names of."""
    calls = [Left("waits", "", False, 0.0)]
    recorded.recorder = SimpleNamespace(left=lambda: (calls, 2))
    recorded.tell_what_is_left()
    assert "has 3 deferred calls to finish in 0.0 s; running: none" in caplog.text


def test_term_without_calls(recorded, caplog):
    """Every day. The log says nothing, and nothing without a ledger."""
    recorded.tell_what_is_left()
    recorded.recorder = None
    recorded.tell_what_is_left()
    assert caplog.text == ""


def test_term_without_a_thread(recorded, monkeypatch, capfd):
    """The log may be locked by what is interrupted: it is written past it."""

    def fail(*args):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("_thread.start_new_thread", fail)
    with deferring():
        defer(os.kill, os.getpid(), signal.SIGTERM).named("it runs")
    assert "running: it runs (for " in capfd.readouterr().err
    recorded._tell_from_a_thread()
    assert capfd.readouterr().err == ""


def test_the_time_that_is_left_without_a_signal(attached, worker):
    """As after max_requests: from when it is first asked for."""
    worker.alive = False
    assert 29 < attached.time_left() <= 29.5


def test_no_handler_for_term(worker):
    """Then there is none to chain."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        host = GunicornHost(worker)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        host.close()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_timeout_is_named(attached, worker):
    """What is lost then says why."""
    assert attached.why == "the worker was told to stop"
    gunicorn.worker_abort(worker)
    assert attached.why == "gunicorn's timeout of 60 s ended the worker"
    worker.alive = False
    assert time_for_calls() < 0


def test_hooks_without_a_host(worker):
    """Harmless, wherever gunicorn calls them."""
    gunicorn.worker_abort(worker)
    worker.pid = -1
    gunicorn.worker_exit(None, worker)  # the master, which gunicorn asks at times


def test_a_host_of_the_right_kind(worker, monkeypatch):
    """gevent's workers have one that can end a call that waits."""

    class GeventWorker:
        pass

    module = SimpleNamespace(GeventWorker=GeventWorker)
    monkeypatch.setitem(__import__("sys").modules, "gunicorn.workers.ggevent", module)
    before = signal.getsignal(signal.SIGTERM)
    host = host_for(worker)
    assert type(host) is GunicornHost
    host.close()
    gevents = GeventWorker()
    vars(gevents).update(vars(worker))
    host = host_for(gevents)
    assert type(host) is GeventHost
    assert host._is_heart(-1)
    host.close()
    signal.signal(signal.SIGTERM, before)


def test_a_hook_that_fails_is_logged(server, caplog):
    """It would end the master otherwise."""
    del server.WORKERS
    for hook in (gunicorn.pre_fork, gunicorn.on_exit):
        _hooks._masters.clear()
        hook(server, *([SimpleNamespace(age=1)] if hook is gunicorn.pre_fork else []))
    gunicorn.post_worker_init(SimpleNamespace(log=server.log))
    assert caplog.text.count("wsgi_defer: a hook failed") == 2


def fork_worker(server, worker):
    """What gunicorn does around a fork, but for the fork."""
    gunicorn.pre_fork(server, worker)
    server.WORKERS[worker.pid] = worker


def leave_a_call(worker):
    """Be the worker for a moment, and leave a call that waits."""
    (master,) = _hooks._masters.values()
    recorder = master.ledger.recorder(master.pages[worker.age])
    with deferring() as scope:
        call = defer(int).named(f"of worker {worker.age}")
        recorder.queued(call, scope)


def test_what_a_dead_worker_left(server, worker, caplog):
    """Named by child_exit, with gunicorn's timeout if it was that; and once."""
    fork_worker(server, worker)
    leave_a_call(worker)
    worker.aborted = True
    del server.WORKERS[worker.pid]
    gunicorn.child_exit(server, worker)
    gunicorn.child_exit(server, worker)
    assert caplog.text.count("deferred call of worker 7 lost while it waited") == 1
    assert f"worker {worker.pid} ended after gunicorn's timeout" in caplog.text
    gunicorn.on_exit(server)
    assert "lost in all workers: 1" in caplog.text


def test_what_a_worker_named_itself_counts(server, worker, caplog):
    """The total is that of all that the log names."""
    fork_worker(server, worker)
    (master,) = _hooks._masters.values()
    recorder = master.ledger.recorder(master.pages[worker.age])
    observe_process(recorder)
    try:
        with deferring() as scope:
            for _ in range(2):
                defer(int)
            report_lost(scope, "the worker was told to stop")
    finally:
        stop_observing(recorder)
    leave_a_call(worker)
    gunicorn.child_exit(server, worker)
    fork_worker(server, worker)  # the page is used again
    gunicorn.child_exit(server, worker)
    gunicorn.on_exit(server)
    assert "lost in all workers: 3" in caplog.text


def test_workers_that_gunicorn_forgets(server, worker, caplog):
    """Read at the next fork, or at the end."""
    fork_worker(server, worker)
    leave_a_call(worker)
    del server.WORKERS[worker.pid]
    other = SimpleNamespace(age=8, pid=-2)
    fork_worker(server, other)
    assert "of worker 7 lost" in caplog.text
    leave_a_call(other)
    del server.WORKERS[other.pid]
    gunicorn.on_exit(server)
    assert "of worker 8 lost" in caplog.text


def test_more_workers_than_slots(server, worker, caplog, monkeypatch):
    """They run, and the log says what is not known of them."""
    fork_worker(server, worker)
    (master,) = _hooks._masters.values()
    monkeypatch.setattr(master.ledger, "_free", [])
    fork_worker(server, SimpleNamespace(age=8, pid=-2))
    assert "too many workers; calls that worker 8 loses" in caplog.text


def test_more_calls_than_entries(server, worker, caplog, monkeypatch):
    """Their number is told, if not their names."""
    fork_worker(server, worker)
    (master,) = _hooks._masters.values()
    recorder = master.ledger.recorder(master.pages[worker.age])
    recorder._free.clear()
    with deferring() as scope:
        recorder.queued(defer(int), scope)
    gunicorn.child_exit(server, worker)
    assert "1 more deferred calls lost" in caplog.text


def test_another_masters_hooks(server, worker):
    """A master that was forked has a ledger of its own."""
    _hooks._masters[-1] = None
    gunicorn.child_exit(server, worker)
    gunicorn.on_exit(server)
    gunicorn.pre_fork(server, worker)
    assert list(_hooks._masters) == [os.getpid()]


def test_recorded(server, worker, monkeypatch):
    """A worker of a master with a ledger writes into its page."""
    fork_worker(server, worker)
    (master,) = _hooks._masters.values()
    monkeypatch.setattr(_hooks, "_masters", {os.getppid(): master})
    gunicorn.post_worker_init(worker)
    try:
        assert host.current.recorded
        with deferring():
            defer(lambda: seen.append(master.ledger.close_page(master.pages[7])))
            seen = []
        assert seen[0][0][0].running
    finally:
        _hooks._detach()
    assert not host.current.recorded


def test_install():
    """All hooks, and those of the user first, whatever they raise; once only."""
    calls = []

    def child_exit(server, worker):
        calls.append((server, worker))
        raise ValueError

    namespace = {"child_exit": child_exit, "on_exit": "os.path.basename", "bind": "x"}
    gunicorn.install(namespace)
    gunicorn.install(namespace)
    assert set(namespace) == {*_hooks.HOOKS, "bind"}
    assert namespace["pre_fork"] is gunicorn.pre_fork
    server = SimpleNamespace(log=None)
    with pytest.raises(ValueError):
        namespace["child_exit"](server, "worker")
    assert calls == [(server, "worker")]
    assert len(inspect.signature(namespace["child_exit"]).parameters) == 2
    with pytest.raises(ImportError):
        gunicorn.install({"pre_fork": "no.such.module"})


def test_install_without_brackets():
    """The error shows what is to be written."""
    with pytest.raises(TypeError, match=r"as in install\(globals\(\)\), with brackets"):
        gunicorn.install(globals)


@pytest.mark.parametrize("chained", [False, True])
def test_gunicorn_takes_them(chained):
    """It counts their parameters."""
    settings = config.Config()
    theirs = {
        "pre_fork": lambda server, worker: None, "on_exit": lambda server: None,
        "post_worker_init": lambda worker: None,
    }  # fmt: skip
    namespace = dict(theirs) if chained else {}
    gunicorn.install(namespace)
    for name, hook in namespace.items():
        settings.set(name, hook)
        assert settings.settings[name].get() is hook


def test_no_name_of_the_package_is_a_setting_by_chance():
    """``-c python:wsgi_defer.gunicorn`` sets everything that has a setting's name."""
    import wsgi_defer.gunicorn._workers  # noqa: F401  becomes an attribute

    names = set(vars(gunicorn)) & set(config.Config().settings)
    assert names == {*_hooks.HOOKS, "worker_class"}
    assert set(gunicorn.__all__) == {*_hooks.HOOKS, "install"}


class Application(base.Application):
    """gunicorn, as far as it reads its configuration."""

    def init(self, parser, opts, args):
        return None

    def load(self):
        raise NotImplementedError


def configured(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["gunicorn", *arguments])
    monkeypatch.setattr(sys, "path", [*sys.path])
    return Application().cfg


OURS = "wsgi_defer.gunicorn.SyncWorker"


def test_our_module_as_the_configuration(monkeypatch):
    """It brings the worker class, too; the command line has the last word."""
    ours = ("-c", "python:wsgi_defer.gunicorn")
    cfg = configured(monkeypatch, *ours)
    assert cfg.worker_class is gunicorn.SyncWorker
    assert cfg.child_exit is gunicorn.child_exit
    cfg = configured(monkeypatch, *ours, "-k", "wsgi_defer.gunicorn.ThreadWorker")
    assert cfg.worker_class is gunicorn.ThreadWorker
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--worker-class gthread")
    assert configured(monkeypatch, *ours).worker_class_str == "gthread"


def test_a_star_does_not_bring_the_worker_class(monkeypatch, tmp_path):
    """It would replace the one that is set above it."""
    file = tmp_path / "gunicorn.conf.py"
    file.write_text("worker_class = 'gthread'\nfrom wsgi_defer.gunicorn import *\n")
    cfg = configured(monkeypatch, "-c", str(file))
    assert cfg.worker_class_str == "gthread"
    assert cfg.child_exit is gunicorn.child_exit
    del sys.modules["__config__"]


@pytest.mark.parametrize(
    ("named", "threads", "warned"),
    [(OURS, 2, 1), (OURS, 1, 0), ("sync", 2, 0), (gunicorn.ThreadWorker, 2, 0)],
)
def test_threads_without_the_worker_class_for_them(
    server, worker, caplog, named, threads, warned
):
    """gunicorn then takes its own class, silently; the log says so, once."""
    server.cfg.set("worker_class", named)
    server.cfg.set("threads", threads)
    fork_worker(server, worker)
    fork_worker(server, SimpleNamespace(age=8, pid=-2))
    assert caplog.text.count("choose wsgi_defer.gunicorn.ThreadWorker") == warned
    if warned:  # else the warning is wrong
        assert server.cfg.worker_class is gthread.ThreadWorker
        assert "threads is 2, so gunicorn uses its own gthread" in caplog.text


@pytest.mark.parametrize("silenced", [False, True])
def test_the_log_is_ours_where_gunicorns_is_silenced(silenced, caplog):
    """By the app's logging configuration; gunicorn's own otherwise, of any class."""
    theirs = logging.Logger("theirs")
    theirs.disabled = silenced
    gunicorns = SimpleNamespace(error_log=theirs)
    expected = logging.getLogger("wsgi_defer") if silenced else gunicorns
    assert _host.log_of(SimpleNamespace(log=gunicorns)) is expected
    assert _host.log_of(SimpleNamespace(log=theirs)) is theirs
