"""Fixtures for all tests."""

from __future__ import annotations

import gc
import signal
import sys
import threading

import pytest

from wsgi_defer import background, current_scope, deferring
from wsgi_defer._calls import watch
from wsgi_defer._runtime import events, report

pytest.register_assert_rewrite("tests.helpers.every_pool", "tests.helpers.pools")

from .helpers import command_app  # noqa: E402  # when those are known
from .helpers.limits import Clock, Failures  # noqa: E402
from .helpers.pools import POOLS, running_of  # noqa: E402, running_of
from .helpers.waiting import until  # noqa: E402

# A shell ignores it for what it starts in the background, and that is inherited.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def ran():
    """A list that calls append to, and that tests compare."""
    return []


@pytest.fixture
def seen():
    """What calls failed with, and which were slow or ran over."""
    return Failures()


@pytest.fixture
def clock(monkeypatch):
    """The clock of time limits, in which time can pass at once."""
    return Clock(monkeypatch)


@pytest.fixture
def the_alarm_is_as_it_was(monkeypatch):
    """No test leaves a handler or a timer, or something that is watched; and none has
    to wait long for who watches."""
    monkeypatch.setattr(watch, "INTERVAL", 0.01)
    yield
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    assert not (watch.watch.made and watch.watch.made._calls)


@pytest.fixture
def released():
    """Tasks may wait for it, and end with the test at last."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A directory with the app of the command's tests, the current one."""
    (tmp_path / "command_app.py").write_text(command_app.APP)
    (tmp_path / "finish").write_text("0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("command_app", None)


@pytest.fixture(autouse=True, scope="module")
def quick_collections():
    """Many tests call the collector of garbage, which then looks at what has been made
    since their module began, and no longer at all that was ever imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """No test leaves a scope current, or work on the background thread."""
    assert current_scope() is None
    yield
    assert background.join(timeout=10)
    assert current_scope() is None


@pytest.fixture
def scope(request):
    """A scope with the POOLS of the test's module, or with those that tests share."""
    with deferring(pools=getattr(request.module, "POOLS", POOLS)) as scope:
        yield scope


@pytest.fixture(autouse=True)
def lines_have_the_fields_of_their_event():
    """Whatever a test logs, the catalogue has it."""
    wrong = []

    def look(record):
        prefix = "wsgi_defer_"
        fields = {name for name in vars(record) if name.startswith(prefix)}
        event = events.CATALOGUE.get(getattr(record, f"{prefix}event", None))
        known = {"event", "worker", *(event.fields if event else ())}
        if event is None or fields - {prefix + name for name in known}:
            wrong.append((record.getMessage(), fields))
        return True

    report.logger.addFilter(look)
    yield
    report.logger.removeFilter(look)
    assert not wrong


@pytest.fixture(autouse=True)
def no_job_is_left():
    """Whatever a test did, no pool that tests share remembers a task of it."""
    yield
    for kind in POOLS.values():
        if (running := running_of(kind)) is not None:
            # One that is cancelled by its own thread leaves a moment after that.
            until(lambda running=running: not running.tasks)
