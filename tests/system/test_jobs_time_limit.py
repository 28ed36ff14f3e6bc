"""The time limit of a handler: what is raised in it, and when the process ends."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest

from wsgi_defer import TimeLimitError, defer, deferring
from wsgi_defer._calls.interruptible import blocker, wake
from wsgi_defer.jobs import Jobs, JobTimeLimitError, _watch
from wsgi_defer.jobs._attempt import Attempt
from wsgi_defer.jobs._time_limit import ending, run_within
from wsgi_defer.jobs._watch import HUNG

from ..helpers.waiting import OF_PROCESSES, PATIENCE, until


@pytest.fixture(autouse=True)
def nobody_has_the_alarm():
    """No test leaves a handler of it."""
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    yield
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


def endless():
    """Code that can be interrupted."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        time.sleep(0.001)


def in_thread(run):
    """What that returns, or the error that it raises, in another thread."""
    got = []

    def keep():
        try:
            got.append(run())
        except BaseException as error:
            got.append(error)

    thread = threading.Thread(target=keep)
    thread.start()
    thread.join(PATIENCE)
    return got[0]


def test_what_is_quick_enough():
    """It gives back what it returns, with and without a limit."""
    assert run_within(None, "job", lambda: 1) == 1
    assert run_within(PATIENCE, "job", lambda: 2) == 2
    with pytest.raises(ZeroDivisionError):
        run_within(PATIENCE, "job", lambda: 1 / 0)


def test_in_another_thread():
    """The error says which job, and how long it may take."""
    error = in_thread(lambda: run_within(0.05, "job", endless))
    assert isinstance(error, JobTimeLimitError)
    assert (error.name, error.limit) == ("job", 0.05)
    assert str(error) == "the job job took longer than its limit of 0.05 s."


def test_in_the_main_thread_a_system_call_is_interrupted():
    """As in RQ's and Celery's processes."""
    start = time.monotonic()
    with pytest.raises(JobTimeLimitError):
        run_within(0.05, "job", lambda: time.sleep(PATIENCE))
    assert time.monotonic() - start < PATIENCE


def test_a_handler_of_the_alarm_is_left_alone():
    """Another's. The limit holds all the same, after the system call."""
    before = signal.signal(signal.SIGALRM, signal.SIG_IGN)
    try:
        with pytest.raises(JobTimeLimitError):
            run_within(0.05, "job", endless)
        assert signal.getsignal(signal.SIGALRM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGALRM, before)


def test_the_alarm_is_given_back():
    """So that calls that are deferred later, or by the handler, have their limits."""
    ended = []
    jobs = Jobs(None)

    @jobs.handler("job", time_limit=PATIENCE)
    def handler(payload):
        early = defer(endless).time_limit(0.05)
        defer(endless).time_limit(0.05).catch(ended.append)
        with pytest.raises(TimeLimitError):
            early.result()

    jobs.run("job", "1", "id", 1, last=True)
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    with deferring():
        defer(endless).time_limit(0.05).catch(ended.append)
    assert [type(error) for error in ended] == [TimeLimitError, TimeLimitError]


def test_the_alarm_is_given_back_by_the_outer_one():
    """Also after the limit, and if another has taken it meanwhile."""

    def outer():
        with pytest.raises(JobTimeLimitError):
            run_within(0.02, "inner", lambda: time.sleep(PATIENCE))
        assert signal.getsignal(signal.SIGALRM) is wake

    run_within(PATIENCE, "outer", outer)
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    run_within(PATIENCE, "job", lambda: signal.signal(signal.SIGALRM, signal.SIG_IGN))
    assert signal.signal(signal.SIGALRM, signal.SIG_DFL) is signal.SIG_IGN


def test_an_alarm_that_strikes_late_harms_nobody():
    """The signal that wakes the main thread would end the process by default."""
    for _ in range(300):
        with suppress(JobTimeLimitError):
            run_within(0.001, "job", lambda: time.sleep(0.001))


def test_nothing_is_raised_where_it_would_break_things(monkeypatch):
    """It is raised as soon as that is over."""
    asked = []

    def blocker(frame):
        asked.append(frame.f_code.co_name)
        return frame if len(asked) < 3 else None

    monkeypatch.setattr(_watch, "blocker", blocker)
    assert isinstance(
        in_thread(lambda: run_within(0.05, "job", endless)), JobTimeLimitError
    )
    assert len(asked) == 3


def test_what_struck_too_late_is_not_raised():
    """The thread runs other jobs afterwards."""

    def again_and_again():
        for _ in range(200):
            try:
                run_within(0.001, "job", lambda: time.sleep(0.001))
            except JobTimeLimitError:
                pass
        time.sleep(0.05)
        return "unharmed"

    assert in_thread(again_and_again) == "unharmed"


THEN_TRACED = """
import sys
from contextlib import suppress
from wsgi_defer.jobs import JobTimeLimitError
from wsgi_defer.jobs._time_limit import run_within

def loop():
    while True:
        pass

for _ in range(20):
    with suppress(JobTimeLimitError):
        run_within(0.001, "job", loop)
sys.settrace(lambda *event: None)
(lambda: print("went on"))()
"""


def test_nothing_is_left_to_be_raised():
    """With Python 3.11, that would be an endless loop where something is traced."""
    ended = subprocess.run(
        [sys.executable, "-c", THEN_TRACED], capture_output=True, timeout=OF_PROCESSES
    )
    assert ended.stdout == b"went on\n", ended.stderr


@pytest.fixture
def ends(monkeypatch):
    """The statuses with which this process would have ended."""
    statuses = []
    monkeypatch.setattr(_watch, "GRACE", 0.05)
    monkeypatch.setattr(_watch.os, "_exit", statuses.append)
    monkeypatch.setattr(_watch.logging, "shutdown", lambda: None)
    return statuses


def stubborn(until_true):
    """Catch everything, until that is true."""

    def run():
        deadline = time.monotonic() + PATIENCE
        while not until_true() and time.monotonic() < deadline:
            try:
                time.sleep(0.001)
            except BaseException:
                continue

    return run


def test_a_handler_that_does_not_end_ends_the_process(ends, caplog):
    """First, the engine stores that the attempt has failed."""
    told = []

    def work():
        with ending(told.append):
            run_within(0.02, "job", stubborn(lambda: ends))

    in_thread(work)
    assert ends == [HUNG]
    assert [str(error.name) for error in told] == ["job"]
    assert "so this process ends" in caplog.text


def test_the_process_ends_even_if_the_failure_cannot_be_stored(ends, caplog):
    """The attempt is started again then."""

    def fail(error):
        raise OSError("no server")

    def work():
        with ending(fail):
            run_within(0.02, "job", stubborn(lambda: ends))

    in_thread(work)
    assert ends == [HUNG]
    assert "the job is started again" in caplog.text


def test_a_failure_that_is_being_stored_is_final(monkeypatch, caplog):
    """A handler that ends meanwhile does not succeed: its job is tried again."""
    events, storing, returned = [], threading.Event(), threading.Event()
    monkeypatch.setattr(_watch, "GRACE", 0.05)
    monkeypatch.setattr(_watch.os, "_exit", lambda status: events.append("ended"))
    monkeypatch.setattr(_watch.logging, "shutdown", lambda: None)

    def store(error):
        storing.set()
        returned.wait(0.3)
        events.append("stored")

    def work():
        with ending(store):
            run_within(0.02, "job", stubborn(storing.is_set))
        events.append("returned")
        returned.set()

    in_thread(work)
    assert events == ["stored", "ended", "returned"]


def test_a_process_that_serves_requests_does_not_end(ends):
    """Only a worker does."""
    deadline = time.monotonic() + 0.3
    in_thread(
        lambda: run_within(0.02, "job", stubborn(lambda: time.monotonic() > deadline))
    )
    until(lambda: not any(t.name == "time-limit" for t in threading.enumerate()))
    assert ends == []


def test_handlers_have_limits(caplog):
    """The error is that of the attempt."""
    jobs = Jobs(None)
    jobs.handler("job", time_limit=0.05)(lambda payload: endless())
    caplog.set_level(logging.ERROR)
    error = in_thread(lambda: jobs.run("job", "1", "id", 1, last=True))
    assert isinstance(error, JobTimeLimitError)
    assert "raised JobTimeLimitError" in caplog.text


def test_a_coroutine_that_ends_after_its_limit():
    """On another thread, the limit is raised when the wait for it is over."""
    jobs = Jobs(None)

    @jobs.handler("job", time_limit=0.05)
    async def handler(payload):
        await asyncio.sleep(0.5)

    error = in_thread(lambda: jobs.run("job", "1", "id", 1, last=True))
    assert isinstance(error, JobTimeLimitError)


def test_an_attempt_that_does_not_end_is_counted(ends):
    """As failed, or as one that is tried again, and stored as that."""
    jobs, told, stored = Jobs(None), [], []
    jobs.worklog.ended = lambda *args, **words: told.append((args[3], words))
    jobs.handler("job", time_limit=0.02)(lambda payload: stubborn(lambda: ends)())
    attempt = Attempt("id", "job", "1", [5.0])
    in_thread(lambda: attempt.run(jobs, store=stored.append))
    assert ends == [HUNG]
    assert told[0][0] == "again"
    assert told[0][1]["again_in"] == 5.0
    assert stored[0].error.startswith("JobTimeLimitError")
    assert (stored[0].wait, stored[0].following.number) == (5.0, 2)


def test_nothing_is_raised_while_it_ends():
    """Not even by the limit of a call around the job."""
    found = []

    class Lock:
        def __enter__(self):
            found.append(blocker(sys._getframe()))

        def __exit__(self, *error):
            return None

    watch = _watch.Watch(PATIENCE, JobTimeLimitError("job", PATIENCE), None)
    watch._lock = Lock()
    watch.end()
    assert found[0].f_code is _watch.Watch.end.__code__


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), 1e9])
def test_limits_that_make_no_sense(seconds):
    """They are refused at once."""
    with pytest.raises(ValueError, match="time_limit takes seconds"):
        Jobs(None).handler("job", time_limit=seconds)


@pytest.mark.parametrize(
    "where", [in_thread, lambda run: run()], ids=["thread", "main"]
)
def test_a_job_in_a_job(where):
    """The limit of the outer one ends both, and is told as its own."""
    ended = []

    def inner():
        try:
            run_within(PATIENCE, "inner", endless)
        except JobTimeLimitError:  # not its own
            ended.append("inner")

    def outer():
        try:
            return run_within(0.05, "outer", inner)
        except JobTimeLimitError as error:
            return error

    assert "the job outer" in str(where(outer))
    assert ended == []
