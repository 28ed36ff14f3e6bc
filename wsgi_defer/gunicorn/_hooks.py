"""gunicorn's hooks: the host in each worker, and the ledger in the master.

gunicorn calls each hook as its settings page says. No hook raises, because an error in
a hook of the master would end the master.
"""

from __future__ import annotations

import functools
import os
import pkgutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .. import background
from .._runtime import host, recording
from .._servers.handover import report_lost_drains
from ..background import Drain
from ..ledger import Ledger, Left, Recorder
from ..ledger._snapshot import listen, share
from ..observers._observers import observe_process, stop_observing
from ._host import GunicornHost, host_for, log_of, time_for_calls

KILLED_WAIT = 2.0  # seconds for the kernel to end a worker that was sent SIGKILL


class _Master:
    """The ledger of this master, and the page of each worker."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.pages: dict[int, int] = {}  # by the worker's age, which is its number
        share(self.ledger)

    def assign(self, server: Any, worker: Any) -> None:
        self.ledger.name = server.cfg.proc_name  # a reload may change it
        alive = {each.age for each in list(server.WORKERS.values())}
        for age in set(self.pages) - alive:  # gunicorn did not tell us, or did not fork
            self.read(server, age, "a worker")
        page = self.ledger.take_page()
        if page is None:
            server.log.warning(
                "wsgi_defer: too many workers; calls that worker %s loses if it is "
                "killed will not be named", worker.age,
            )  # fmt: skip
        else:
            self.pages[worker.age] = page

    def read(self, server: Any, age: int, who: str, end: str = "ended") -> None:
        """Name the calls that a dead worker left, once, and how it ended."""
        page = self.pages.pop(age, None)
        if page is None:
            return
        calls, unnamed = self.ledger.close_page(page)
        for call in calls:
            log_of(server).error("wsgi_defer: %s", _sentence(call, f"{who} {end}"))
        if unnamed:
            log_of(server).error(
                "wsgi_defer: %d more deferred calls lost: %s %s; the ledger had no "
                "room for their names", unnamed, who, end,
            )  # fmt: skip


def _sentence(call: Left, why: str) -> str:
    did = "while it ran, for" if call.running else "while it waited, for"
    request = f"; request {call.request_id}" if call.request_id else ""
    return f"deferred call {call.name} lost {did} {call.since:.1f} s: {why}{request}"


_masters: dict[int, _Master] = {}  # one at most, by process
_recorders: list[Recorder] = []  # one at most, in a worker


def pre_fork(server: Any, worker: Any) -> None:
    """In the master: reserve a page of the ledger."""
    with _harmless(server.log):
        master = _masters.get(os.getpid())
        if master is None:
            _masters.clear()
            master = _masters[os.getpid()] = _Master()
            _warn_of_threads(server)
        master.assign(server, worker)


def _warn_of_threads(server: Any) -> None:
    # gunicorn looks for "SyncWorker" at the end of the name, and then takes its own
    # gthread worker. Our class is not even imported.
    named = server.cfg.settings["worker_class"].get()
    threads = server.cfg.threads
    if named == f"{__package__}.SyncWorker" and threads > 1:
        server.log.warning(
            "wsgi_defer: the worker class is %s, but threads is %d, so gunicorn uses "
            "its own gthread worker instead; choose %s.ThreadWorker, or set threads "
            "to 1", named, threads, __package__,
        )  # fmt: skip


def post_worker_init(worker: Any) -> None:
    """In the worker: make it the host of its calls, and record what becomes of them."""
    with _harmless(worker.log):
        attach(worker)


def worker_abort(worker: Any) -> None:
    """In the worker, on gunicorn's timeout."""
    current = host.current
    if isinstance(current, GunicornHost):
        current.note_timeout()


def worker_exit(server: Any, worker: Any) -> None:
    """In the worker: let the background thread finish its calls."""
    if os.getpid() == worker.pid:  # gunicorn sometimes calls it in the master, too
        with _harmless(worker.log):
            _note_stopping()
            background.finish()


def child_exit(server: Any, worker: Any) -> None:
    """In the master: name the calls that a dead worker left."""
    with _harmless(server.log):
        master = _masters.get(os.getpid())
        if master is not None:
            late = getattr(worker, "aborted", False)
            end = "ended after gunicorn's timeout" if late else "ended"
            master.read(server, worker.age, f"worker {worker.pid}", end)


def on_exit(server: Any) -> None:
    """In the master: name the calls of workers that it killed at the end. For these,
    gunicorn does not call ``child_exit``."""
    with _harmless(server.log):
        master = _masters.get(os.getpid())
        if master is None:
            return
        for pid, worker in list(server.WORKERS.items()):
            _wait_for_death(pid)
            end = "was killed when graceful_timeout ran out"
            master.read(server, worker.age, f"worker {pid}", end)
        for age in list(master.pages):
            master.read(server, age, "a worker")
        if lost := master.ledger.lost_so_far():
            log_of(server).error(
                "wsgi_defer: deferred calls that were lost in all workers: %d", lost
            )


def attach(worker: Any) -> None:
    """Make the worker this process's host, once. Called in the worker's process."""
    current = host.current
    if isinstance(current, GunicornHost) and current.worker is worker:
        return
    current = host_for(worker)
    master = _masters.get(os.getppid())
    if master is not None and worker.age in master.pages:
        recorder = master.ledger.recorder(master.pages[worker.age])
        _recorders.append(recorder)
        observe_process(recorder)
        recording.install(recorder)
        current.recorder = recorder
        listen(current.listeners)
    host.install(current)


def _note_stopping() -> None:
    for recorder in _recorders:
        recorder.stopping()


@contextmanager
def finishing_calls(
    worker: Any, unfinished: Callable[[], list[list[Drain]]]
) -> Iterator[None]:
    """Around a worker's own ``run()``: let calls finish afterwards while there is time.
    The rest is lost. ``unfinished`` returns the calls that still run or wait outside
    the main thread."""
    attach(worker)
    try:
        try:
            yield
        finally:  # also on INT and QUIT, which raise SystemExit in here
            _note_stopping()
            # The responses have ended, but calls may still run. Keep the worker's heart
            # beating; otherwise the master would consider it stuck.
            deadline = time.monotonic() + time_for_calls()
            while unfinished() and time.monotonic() < deadline:
                host.current.beat()
                time.sleep(0.1)
    finally:
        for drains in unfinished():
            # A running call may still finish while the process exits. If it does not,
            # the master names it.
            report_lost_drains(drains, running=not host.current.recorded)


def _detach() -> None:
    """In a child of a worker: give up its heart and its page of the ledger."""
    current = host.current
    if isinstance(current, GunicornHost):
        current.close()
        host.install(host.Host())
    while _recorders:
        recorder = _recorders.pop()
        recorder.forget()
        stop_observing(recorder)
        recording.install(None)


os.register_at_fork(after_in_child=_detach)


HOOKS: dict[str, Callable[..., None]] = {
    hook.__name__: hook
    for hook in (
        pre_fork, post_worker_init, worker_abort, worker_exit, child_exit, on_exit,
    )
}  # fmt: skip


_CHAINED = "_wsgi_defer_chained"


def install(namespace: dict[str, Any]) -> None:
    """Put the hooks into a configuration: ``install(globals())`` as its last line.

    If there is already a hook, it is called first, and then ours, even if the first
    raises. Raises ``ImportError`` or ``AttributeError`` for a hook that is given as the
    name of a function that does not exist, and ``TypeError`` for ``install(globals)``.
    """
    if not isinstance(namespace, dict):
        raise TypeError(
            "install() takes the names of the configuration, as in install(globals()), "
            f"with brackets after globals; this is {type(namespace).__name__}"
        )
    for name, ours in HOOKS.items():
        theirs = namespace.get(name)
        if isinstance(theirs, str):
            theirs = pkgutil.resolve_name(theirs)
        if theirs is None:
            namespace[name] = ours
        elif theirs is not ours and not hasattr(theirs, _CHAINED):
            namespace[name] = _chain(theirs, ours)


def _chain(theirs: Callable[..., object], ours: Callable[..., None]) -> Any:
    # gunicorn counts a hook's parameters; with wraps(), it sees those of theirs.
    @functools.wraps(theirs)
    def both(*args: Any) -> None:
        try:
            theirs(*args)
        finally:
            ours(*args)

    setattr(both, _CHAINED, True)
    return both


def _wait_for_death(pid: int) -> None:
    deadline = time.monotonic() + KILLED_WAIT
    while time.monotonic() < deadline:
        try:
            if os.waitpid(pid, os.WNOHANG)[0]:
                return
        except ChildProcessError:  # already reaped
            return
        time.sleep(0.01)


@contextmanager
def _harmless(log: Any) -> Iterator[None]:
    try:
        yield
    except Exception:
        log.exception("wsgi_defer: a hook failed")
