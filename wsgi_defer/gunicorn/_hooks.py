"""gunicorn's hooks: the host in each worker, and the ledger in the master.

Each is called by gunicorn with what its settings page says. None raises, because an
error in the master's hooks would end the master.
"""

from __future__ import annotations

import functools
import os
import pkgutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .. import _host, background
from .._observer import observe_process, stop_observing
from .._transport import report_lost_jobs
from ..background import Job
from ..ledger import Ledger, Left, Recorder
from ._host import GunicornHost, host_for, time_for_calls

KILLED_WAIT = 2.0  # seconds for the kernel to end a worker that was sent SIGKILL


class _Master:
    """The ledger of this master, and which worker has which slot."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.slots: dict[int, int] = {}  # by the worker's age, which is its number
        self.lost = 0

    def assign(self, server: Any, worker: Any) -> None:
        alive = {each.age for each in list(server.WORKERS.values())}
        for age in set(self.slots) - alive:  # gunicorn forgot to tell, or did not fork
            self.read(server, age, "a worker")
        slot = self.ledger.take_slot()
        if slot is None:
            server.log.warning(
                "wsgi_defer: too many workers; calls that worker %s loses if it is "
                "killed will not be named", worker.age,
            )  # fmt: skip
        else:
            self.slots[worker.age] = slot

    def read(self, server: Any, age: int, who: str, why: str = "") -> None:
        """Name what a dead worker left. Once only, whoever comes first."""
        slot = self.slots.pop(age, None)
        if slot is None:
            return
        calls, unnamed = self.ledger.close_slot(slot)
        for call in calls:
            server.log.error("wsgi_defer: %s", _sentence(call, who, why))
        if unnamed:
            server.log.error(
                "wsgi_defer: %d more deferred calls lost: %s ended%s; the ledger had "
                "no room for their names", unnamed, who, why,
            )  # fmt: skip
        self.lost += len(calls) + unnamed


def _sentence(call: Left, who: str, why: str) -> str:
    did = "while it ran, for" if call.running else "while it waited, for"
    request = f"; request {call.request_id}" if call.request_id else ""
    return (
        f"deferred call {call.name} lost {did} {call.since:.1f} s: {who} ended{why}"
        f"{request}"
    )


_masters: dict[int, _Master] = {}  # one at most, by process
_recorders: list[Recorder] = []  # one at most, in a worker


def pre_fork(server: Any, worker: Any) -> None:
    """In the master: reserve a slot of the ledger."""
    with _harmless(server.log):
        master = _masters.get(os.getpid())
        if master is None:
            _masters.clear()
            master = _masters[os.getpid()] = _Master()
        master.assign(server, worker)


def post_worker_init(worker: Any) -> None:
    """In the worker: let calls ask it, and record what becomes of them."""
    with _harmless(worker.log):
        attach(worker)


def worker_abort(worker: Any) -> None:
    """In the worker, on gunicorn's timeout."""
    host = _host.current
    if isinstance(host, GunicornHost):
        host.note_timeout()


def worker_exit(server: Any, worker: Any) -> None:
    """In the worker: let the background thread come to its end."""
    if os.getpid() == worker.pid:  # gunicorn calls it in the master, too, at times
        with _harmless(worker.log):
            background.finish()


def child_exit(server: Any, worker: Any) -> None:
    """In the master: name the calls that a worker has left."""
    with _harmless(server.log):
        master = _masters.get(os.getpid())
        if master is not None:
            why = " after gunicorn's timeout" if getattr(worker, "aborted", 0) else ""
            master.read(server, worker.age, f"worker {worker.pid}", why)


def on_exit(server: Any) -> None:
    """In the master: name the calls of workers that it has killed at last, since
    gunicorn calls no ``child_exit`` for these."""
    with _harmless(server.log):
        master = _masters.get(os.getpid())
        if master is None:
            return
        for pid, worker in list(server.WORKERS.items()):
            _wait_for_death(pid)
            master.read(
                server, worker.age, f"worker {pid}", " at the end of graceful_timeout"
            )
        for age in list(master.slots):
            master.read(server, age, "a worker")
        if master.lost:
            server.log.error(
                "wsgi_defer: deferred calls that were lost with their workers, in all: "
                "%d", master.lost,
            )  # fmt: skip


def attach(worker: Any) -> None:
    """Make this process's host that worker, once. For a worker's own process."""
    host = _host.current
    if isinstance(host, GunicornHost) and host.worker is worker:
        return
    host = host_for(worker)
    master = _masters.get(os.getppid())
    if master is not None and worker.age in master.slots:
        recorder = master.ledger.recorder(master.slots[worker.age])
        _recorders.append(recorder)
        observe_process(recorder)
        host.recorded = True
    _host.install(host)


@contextmanager
def finishing_calls(
    worker: Any, unfinished: Callable[[], list[list[Job]]]
) -> Iterator[None]:
    """Around a worker's own ``run()``: what can finish afterwards does, and the rest is
    lost. ``unfinished`` returns what still runs or waits beside the main thread."""
    attach(worker)
    try:
        try:
            yield
        finally:  # also on INT and QUIT, which raise SystemExit in here
            # The responses have ended, but calls may still run: keep the master from
            # taking this worker for stuck.
            deadline = time.monotonic() + time_for_calls()
            while unfinished() and time.monotonic() < deadline:
                _host.current.beat()
                time.sleep(0.1)
    finally:
        for jobs in unfinished():
            # One that runs may still come to its end while the process exits, and if
            # not, the master names it.
            report_lost_jobs(jobs, running=not _host.current.recorded)


def _detach() -> None:
    """In a child of a worker: the heart and the slot are its parent's."""
    host = _host.current
    if isinstance(host, GunicornHost):
        host.close()
        _host.install(_host.Host())
    while _recorders:
        recorder = _recorders.pop()
        recorder.forget()
        stop_observing(recorder)


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

    A hook that is there already is called first, and then ours, even if it raises.
    Raises ``ImportError`` or ``AttributeError`` for a hook given as the name of a
    function that does not exist.
    """
    for name, ours in HOOKS.items():
        theirs = namespace.get(name)
        if isinstance(theirs, str):
            theirs = pkgutil.resolve_name(theirs)
        if theirs is None:
            namespace[name] = ours
        elif theirs is not ours and not hasattr(theirs, _CHAINED):
            namespace[name] = _chain(theirs, ours)


def _chain(theirs: Callable[..., object], ours: Callable[..., None]) -> Any:
    # gunicorn counts the parameters of a hook, and wraps() shows it those of theirs.
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
        except ChildProcessError:  # reaped already
            return
        time.sleep(0.01)


@contextmanager
def _harmless(log: Any) -> Iterator[None]:
    try:
        yield
    except Exception:
        log.exception("wsgi_defer: a hook failed")
