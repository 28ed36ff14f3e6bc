"""Jobs: handlers, what enqueue() refuses, when it writes, and the helpers of tests."""

from __future__ import annotations

import inspect
import logging
import os
import sys
import threading
from contextlib import contextmanager, nullcontext
from datetime import datetime, timezone

import pytest

from wsgi_defer import (
    DeferMiddleware,
    Scope,
    before_response,
    current_scope,
    defer,
    deferring,
)
from wsgi_defer.jobs import (
    Job,
    JobNotFailedError,
    Jobs,
    JobsUnavailable,
    NotSupported,
    PayloadError,
    UnknownHandlerError,
    UnknownJobError,
    _attempt,
    _notices,
)
from wsgi_defer.jobs._attempt import Attempt, AttemptFailed
from wsgi_defer.jobs._job import MOST_CRASHES, describe, utc

from ...helpers.client import get, make_environ, text_app
from ...helpers.orders import handle_abort


class Broken:
    """An engine that is down."""

    title = "a broken engine"
    holds = True

    def enqueue(self, order):
        raise JobsUnavailable(self.title, "enqueue")

    def close(self):
        pass


class Stored:
    """An engine that notes what it is given."""

    title = "a list"
    holds = True

    def __init__(self):
        self.orders = []

    def enqueue(self, order):
        self.orders.append(order)

    def close(self):
        pass


@pytest.fixture
def jobs():
    made = Jobs(None)

    @made.handler("mail.welcome", attempts=5, backoff=60)
    def welcome(payload):
        return {"sent": payload}

    @made.handler("mail.fails")
    def fails(payload):
        raise ValueError("no such address")

    return made


@pytest.fixture
def stored(jobs):
    """An engine in its place that only notes its orders."""
    engine = Stored()
    jobs._engines[os.getpid()] = engine
    return engine


def app_that(enqueue, status="200 OK"):
    """A wrapped app whose view calls ``enqueue``, with that status."""

    def app(environ, start_response):
        body = str(enqueue()).encode()
        start_response(status, [("Content-Type", "text/plain")])
        return [body]

    return DeferMiddleware(app)


# ---------------------------------------------------------------- what is refused


@pytest.mark.promise("X4")
@pytest.mark.parametrize(
    "payload",
    [{"at": datetime(2026, 1, 1, tzinfo=timezone.utc)}, {1: 2}, (1, 2), float("nan"),
     {"a": float("inf")}, b"bytes", {"x": object}, {"a": {2: 3}}],
    ids=repr,
)  # fmt: skip
def test_payloads_that_are_not_json(jobs, stored, payload):
    """They are refused at enqueue(), and nothing is stored."""
    with pytest.raises(PayloadError, match=r"mail\.welcome.*not JSON"):
        jobs.enqueue("mail.welcome", payload)
    assert stored.orders == []


def test_payloads_that_lead_back_to_themselves(jobs, stored):
    """Circles and towers do not end in a crash."""
    circle = []
    circle.append(circle)
    tower = []
    for _ in range(100_000):
        tower = [tower]
    for payload in (circle, tower):
        with pytest.raises(PayloadError):
            jobs.enqueue("mail.welcome", payload)
    while tower:  # in C, its end would be a deep recursion
        tower = tower[0]


@pytest.mark.parametrize("payload", [None, {}, [], "é\0\ud800", 1.5, {"a": [1, None]}])
def test_payloads_that_come_back_the_same(jobs, payload):
    """The handler gets what was enqueued."""
    seen = []
    jobs.handler("sees")(seen.append)
    jobs.enqueue("sees", payload)
    assert seen == [payload]


def test_the_size_of_a_payload(stored):
    """Exactly max_payload bytes of JSON are allowed."""
    jobs = Jobs(None, max_payload=100)
    jobs._engines[os.getpid()] = stored
    jobs.handler("any")(print)
    jobs.enqueue("any", "x" * 98)
    with pytest.raises(PayloadError, match=r"has 101 bytes, 100 are allowed"):
        jobs.enqueue("any", "x" * 99)
    assert len(stored.orders) == 1


@pytest.mark.promise("X4")
def test_unknown_names(jobs, stored):
    """The error says which there are."""
    with pytest.raises(UnknownHandlerError, match=r"'mail\.goodbye', only 'mail\.welc"):
        jobs.enqueue("mail.goodbye", {})
    with pytest.raises(LookupError):
        jobs.enqueue(["mail"], {})
    assert stored.orders == []


@pytest.mark.promise("X4")
@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf"), 1e12])
def test_delays_that_make_no_sense(jobs, stored, delay):
    """Negative, infinite and far too long ones."""
    with pytest.raises(ValueError, match=r"delay takes seconds, from 0"):
        jobs.enqueue("mail.welcome", {}, delay=delay)
    assert stored.orders == []


@pytest.mark.parametrize("job_id", ["", "a/b", "a:b", "x" * 65, ".hidden", "a b", "é"])
def test_ids_that_could_be_more_than_ids(jobs, stored, job_id):
    """Ids become parts of keys, URLs and command lines."""
    with pytest.raises(ValueError, match="a job's id has"):
        jobs.enqueue("mail.welcome", {}, job_id=job_id)
    assert jobs.status(job_id) is None
    assert stored.orders == []


def test_ids_of_the_wrong_type(jobs):
    """A number is no id, and no job has it."""
    with pytest.raises(TypeError, match="is a str, not int"):
        jobs.enqueue("mail.welcome", {}, job_id=7)
    assert jobs.status(7) is None


@pytest.mark.parametrize("name", ["", "a..b", ".a", "a b", "1a", "a" * 101, "é"])
def test_names_of_handlers(jobs, name):
    """A service and its action, with dots between."""
    with pytest.raises(ValueError, match="a name is like"):
        jobs.handler(name)


def test_a_name_that_is_no_text(jobs):
    """Such as the function, if the name was forgotten."""
    with pytest.raises(TypeError, match="name is a str, not"):
        jobs.handler(print)


def test_two_handlers_of_one_name(jobs):
    """The second is refused when it is decorated."""
    with pytest.raises(ValueError, match=r"two handlers of the name 'mail\.welcome'"):
        jobs.handler("mail.welcome")(print)


@pytest.mark.parametrize(
    "options",
    [{"attempts": 0}, {"attempts": True}, {"attempts": 1.5}, {"backoff": -1},
     {"attempts": 1001},
     {"max_backoff": -1}, {"backoff": float("nan")}, {"backoff": 1e10}],
    ids=str,
)  # fmt: skip
def test_options_that_make_no_sense(jobs, options):
    """They are refused where they are written."""
    with pytest.raises(ValueError, match="takes"):
        jobs.handler("x", **options)


def test_what_cannot_be_called(jobs):
    """handler() decorates functions."""
    with pytest.raises(TypeError, match="decorates functions"):
        jobs.handler("x")("not a function")


def test_generators_are_no_handlers(jobs):
    """A call of a generator runs nothing, and the job would be done."""

    def generator(payload):
        yield payload

    async def coroutines(payload):
        yield payload

    for fn in (generator, coroutines):
        with pytest.raises(TypeError, match="the handler of 'x' is a generator"):
            jobs.handler("x")(fn)


@pytest.mark.parametrize("limit", [-1, 10**6, 1.5, True, "5", None])
def test_limits_that_make_no_sense(jobs, limit):
    """They are refused for all engines alike."""
    for listed in (jobs.failed, jobs.recent):
        with pytest.raises(ValueError, match="limit takes a whole number"):
            listed(limit)
        assert listed(0) == []


@pytest.mark.parametrize("url", ["jobs.db", "ftp://x", "mysql://u:secret@host/db"])
def test_urls_of_no_engine(url):
    """The error says what there is, and shows no password."""
    with pytest.raises(ValueError, match="these do: sqlite://") as caught:
        Jobs(url)
    assert "secret" not in str(caught.value)


def test_an_engine_that_is_not_installed(monkeypatch):
    """The error says what to install."""
    monkeypatch.setitem(sys.modules, "rq", None)
    module = "wsgi_defer.jobs.engines.rq.client"
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(ImportError, match=r"pip install 'wsgi-defer\[rq\]'"):
        Jobs("redis://127.0.0.1:1/0")


# ------------------------------------------------------------------- back-off


def test_back_off():
    """backoff * 2^(attempt-1) seconds, up to a limit."""
    jobs = Jobs(None)
    jobs.handler("a", attempts=5, backoff=60)(print)
    assert jobs.find("a").waits == [60, 120, 240, 480]
    jobs.handler("b", attempts=5, backoff=1, max_backoff=3)(print)
    assert jobs.find("b").waits == [1, 2, 3, 3]
    assert jobs.find("b").wait_after(5000) == 3
    jobs.handler("c")(print)
    assert jobs.find("c").waits == []


# --------------------------------------------------- held until it is a success


def test_held_until_the_response_starts(jobs, stored):
    """The id is there at once; the engine has the job when the response starts."""
    seen = []

    def app(environ, start_response):
        seen.append(jobs.enqueue("mail.welcome", {"to": "ada"}))
        seen.append(len(stored.orders))
        start_response("202 Accepted", [])
        return [b""]

    def server_starts(status, headers, exc_info=None):
        seen.extend(order.id for order in stored.orders)

    body = DeferMiddleware(app)(make_environ(), server_starts)
    body.close()
    job_id, before, stored_id = seen
    assert (before, stored_id) == (0, job_id)


@pytest.mark.parametrize("status", ["400 Bad Request", "500 Oops"])
def test_nothing_is_stored_for_a_failed_request(jobs, stored, status):
    """Below 400 only."""
    get(app_that(lambda: jobs.enqueue("mail.welcome", {}), status))
    assert stored.orders == []


def test_an_engine_that_is_down_is_a_503(jobs):
    """The client gets no id that nobody knows."""
    jobs._engines[os.getpid()] = Broken()
    response = get(app_that(lambda: jobs.enqueue("mail.welcome", {}, job_id="abc")))
    assert response.status.startswith("503")
    assert b"abc" not in response.body


@pytest.mark.promise("L48")
def test_down_to_the_response(jobs, ran):
    """An app may choose, where it need not promise: if there is no engine to be had,
    the work runs after the response."""
    jobs._engines[os.getpid()] = Broken()

    def enqueue():
        try:
            jobs.enqueue("mail.welcome", {}, hold=False)
        except JobsUnavailable:
            defer(ran.append, "mail")
        assert ran == []

    assert get(app_that(enqueue)).status == "200 OK"
    assert ran == ["mail"]


def test_without_holding(jobs, stored):
    """hold=False writes at once, even if the request fails."""
    seen = []

    def enqueue():
        jobs.enqueue("mail.welcome", {}, hold=False)
        seen.append(len(stored.orders))

    get(app_that(enqueue, "500 Oops"))
    assert seen == [1]


def test_outside_a_request(jobs, stored):
    """It is written at once, and the error is the caller's."""
    jobs.enqueue("mail.welcome", {})
    assert len(stored.orders) == 1
    jobs._engines[os.getpid()] = Broken()
    with pytest.raises(JobsUnavailable, match="a broken engine is not available"):
        jobs.enqueue("mail.welcome", {})


def test_after_the_response_has_started(jobs, stored):
    """It is written at once, in a streaming body and in a deferred call."""
    seen = []

    def app(environ, start_response):
        defer(jobs.enqueue, "mail.welcome", 2)
        start_response("200 OK", [])

        def body():
            jobs.enqueue("mail.welcome", 1)
            seen.append(len(stored.orders))
            yield b"x"

        return body()

    get(DeferMiddleware(app))
    assert seen == [1]
    assert [order.payload for order in stored.orders] == ["1", "2"]


def test_another_thread_may_start_the_response(jobs, stored, monkeypatch):
    """Between the check and hold(): the job is written, and not lost."""
    hold = Scope.hold

    def started_meanwhile(scope, *args):
        scope.started = True
        return hold(scope, *args)

    monkeypatch.setattr(Scope, "hold", started_meanwhile)

    def enqueue():
        jobs.enqueue("mail.welcome", {})
        assert len(stored.orders) == 1

    assert get(app_that(enqueue)).status == "200 OK"


def test_in_a_block(jobs, stored):
    """It is written at once: deferring() is no request, and may last for days."""
    with deferring():
        jobs.enqueue("mail.welcome", 1)
        assert len(stored.orders) == 1
    assert len(stored.orders) == 1


def test_in_a_block_inside_a_request(jobs, stored):
    """The response of the request still decides."""

    def enqueue():
        with deferring():
            jobs.enqueue("mail.welcome", 1)
        assert stored.orders == []

    get(app_that(enqueue, "500 No"))
    assert stored.orders == []
    get(app_that(enqueue))
    assert len(stored.orders) == 1


def test_what_is_around_calls_is_not_around_the_engine(jobs, stored):
    """What that raises at its end would refuse a job that is stored."""

    @contextmanager
    def around():
        yield
        raise KeyError

    app = app_that(lambda: jobs.enqueue("mail.welcome", 1)).app
    assert get(DeferMiddleware(app, around=around)).status == "200 OK"
    assert len(stored.orders) == 1


# ---------------------------------------------------------------- no engine


@pytest.mark.promise("L48", "I6", "X3")
def test_without_an_engine(jobs, caplog):
    """I6: the job runs after the response, and its status is known; one warning."""
    seen = []

    def enqueue():
        job_id = jobs.enqueue("mail.welcome", {"to": "ada"})
        seen.append(jobs.status(job_id))
        return job_id

    ids = [get(app_that(enqueue)).body.decode() for _ in range(2)]
    assert seen == [None, None]
    job = jobs.status(ids[0])
    assert (job.state, job.attempts, job.result) == ("done", 1, {"sent": {"to": "ada"}})
    assert job.enqueued_at <= job.started_at <= job.finished_at
    assert [job.id for job in jobs.recent()] == ids[::-1]
    warnings = [r for r in caplog.records if "has no engine" in r.message]
    assert len(warnings) == 1


@pytest.mark.promise("X3")
def test_a_failing_job_without_an_engine(jobs, caplog):
    """It is logged with its traceback, without its payload, listed, and retried."""
    with deferring():
        job_id = jobs.enqueue("mail.fails", {"secret": "sesame"})
    (job,) = jobs.failed()
    assert (job.id, job.state, job.error) == (
        job_id, "failed", "ValueError: no such address",
    )  # fmt: skip
    assert "Traceback" in caplog.text
    assert "sesame" not in caplog.text
    jobs._handlers.pop("mail.fails")
    jobs.handler("mail.fails")(len)
    assert jobs.retry(job_id) == job_id
    assert jobs.status(job_id).state == "done"
    assert jobs.failed() == []
    with pytest.raises(JobNotFailedError, match="is done"):
        jobs.retry(job_id)


def test_what_it_cannot_do_without_an_engine(jobs):
    """It says so."""
    with pytest.raises(NotSupported, match="cannot delay a job"):
        jobs.enqueue("mail.welcome", {}, delay=1)
    with pytest.raises(NotSupported):  # in a request, too, and not when it starts
        get(app_that(lambda: jobs.enqueue("mail.welcome", {}, delay=1)))
    with pytest.raises(NotSupported, match="have workers"):
        jobs.engine.work(0, 1, 1)
    with pytest.raises(NotSupported, match="clear done jobs"):
        jobs.clear(3600)


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_a_time_that_nothing_can_be_older_than(jobs, seconds):
    """It is refused, and the engine is not asked."""
    with pytest.raises(ValueError, match="older_than takes seconds, 0 or more"):
        jobs.clear(seconds)


@pytest.mark.parametrize("job_id", ["0" * 32, "a/b", None])
def test_jobs_that_are_not_known(jobs, job_id):
    """Their status is None, and a retry raises an error."""
    assert jobs.status(job_id) is None
    with pytest.raises(UnknownJobError):
        jobs.retry(job_id)


def test_the_same_id_twice_runs_once(jobs):
    """It names the job."""
    seen = []
    jobs.handler("sees")(seen.append)
    assert jobs.enqueue("sees", 1, job_id="order-42.mail") == "order-42.mail"
    assert jobs.enqueue("sees", 2, job_id="order-42.mail") == "order-42.mail"
    assert seen == [1]


def test_more_jobs_wait_than_are_remembered(jobs, monkeypatch):
    """All of them run."""
    monkeypatch.setattr("wsgi_defer.jobs.engines.memory.REMEMBERED", 3)
    seen = []
    jobs.handler("sees")(seen.append)
    get(app_that(lambda: [jobs.enqueue("sees", number) for number in range(5)]))
    assert seen == [0, 1, 2, 3, 4]


def test_a_job_that_exits(jobs):
    """It has failed. Only gunicorn may order the process to stop."""
    jobs.handler("exits")(lambda payload: sys.exit(3))
    job_id = jobs.enqueue("exits")
    assert (jobs.status(job_id).state, jobs.status(job_id).error) == (
        "failed", "SystemExit: 3",
    )  # fmt: skip
    jobs.handler("is_stopped")(lambda payload: handle_abort())
    with pytest.raises(SystemExit):
        jobs.enqueue("is_stopped")


def test_the_ends_of_many_jobs_are_forgotten(jobs, monkeypatch):
    """Only so many are remembered."""
    monkeypatch.setattr("wsgi_defer.jobs.engines.memory.REMEMBERED", 3)
    ids = [jobs.enqueue("mail.welcome", n) for n in range(5)]
    assert [job.id for job in jobs.recent()] == ids[:1:-1]
    assert jobs.status(ids[0]) is None


# --------------------------------------------------------------- in tests


@pytest.mark.promise("L17", "L19", "L28", "I7")
def test_eager(jobs):
    """I7: jobs run inside enqueue(), also in a request, and their errors are raised.
    L17: what the request has deferred before still waits for the response."""
    seen = []
    jobs.handler("sees")(seen.append)

    def enqueue():
        defer(seen.append, "deferred")
        jobs.enqueue("sees", 1, delay=60)
        seen.append("view")

    with jobs.eager():
        get(app_that(enqueue))
        with pytest.raises(ValueError, match="no such address"):
            jobs.enqueue("mail.fails", {})
        job_id = jobs.enqueue("mail.welcome", 5)
        assert jobs.enqueue("mail.welcome", 6, job_id=job_id) == job_id
        assert jobs.status(job_id).result == {"sent": 5}
    assert seen == [1, "view", "deferred"]
    assert jobs.status(job_id) is None


def test_captured(jobs):
    """Nothing runs; a failed request leaves nothing on the list."""
    with jobs.captured() as captured:
        get(app_that(lambda: jobs.enqueue("mail.fails", {"a": 1}, delay=5)))
        get(app_that(lambda: jobs.enqueue("mail.fails", {"a": 2}), "500 Oops"))
        jobs.enqueue("mail.welcome", 3, job_id="x")
        jobs.enqueue("mail.welcome", 4, job_id="x")
        assert jobs.status("x").state == "queued"
        with pytest.raises(PayloadError):
            jobs.enqueue("mail.welcome", object())
    found = [(job.name, job.payload, job.delay) for job in captured]
    assert found == [("mail.fails", {"a": 1}, 5.0), ("mail.welcome", 3, 0.0)]


@pytest.mark.promise("L28")
def test_switches_inside_each_other(jobs):
    """The end of a block restores what was before it, even after an exception."""
    with jobs.captured() as captured:
        with pytest.raises(ValueError, match="address"), jobs.eager():
            jobs.enqueue("mail.fails", {})
        jobs.enqueue("mail.welcome", 1)
    assert len(captured) == 1
    assert jobs._instead is None


# -------------------------------------------------------------- running them


def test_a_handler_that_wants_the_job(jobs):
    """It gets the id and the number of the attempt."""
    seen = []
    jobs.handler("sees", pass_job=True)(lambda payload, job: seen.append(job))
    jobs.run("sees", "1", "abc", 3, last=False)
    assert seen == [Job("abc", "sees", "running", 3)]


def test_a_coroutine_function(jobs):
    """It runs to its end."""

    @jobs.handler("coroutine")
    async def coroutine(payload):
        return payload + 1

    assert jobs.run("coroutine", "1", "abc", 1, last=True) == 2


@pytest.mark.parametrize("result", [object(), {1: 2}, "x" * 300_000])
def test_results_that_are_not_kept(jobs, caplog, result):
    """The job is done, and a line in the log says why it has no result."""
    jobs.handler("odd")(lambda payload: result)
    assert jobs.run("odd", "1", "abc", 1, last=True) is None
    assert "the result of job odd abc is not kept" in caplog.text


def test_logs_of_attempts(jobs, caplog):
    """A warning if it is tried again, an error after the last."""
    for attempt, last in ((1, False), (2, True)):
        with pytest.raises(ValueError, match="address"):
            jobs.run("mail.fails", "{}", "abc", attempt, last=last)
    assert [record.levelno for record in caplog.records] == [
        logging.WARNING, logging.ERROR,
    ]  # fmt: skip
    assert "attempt 1, and is tried again" in caplog.messages[0]
    assert "attempt 2, and has failed" in caplog.messages[1]


def attempt_at(name, **fields):
    """What a worker is given, with one attempt."""
    return _attempt.Attempt("abc", name, "{}", [], **fields)


def put_back(attempt, jobs):
    """Run it with those; it is put back, without the cost of an attempt. The attempt
    that follows, and the seconds until then."""
    with pytest.raises(_attempt.AttemptFailed) as caught:
        attempt.run(jobs)
    assert caught.value.following.number == 1
    return caught.value.following, caught.value.wait


def test_a_job_whose_handler_is_missing_is_put_back(jobs, monkeypatch, caplog):
    """After growing waits, without the cost of an attempt, and with one line in the
    log. In the end, it fails as any other."""
    monkeypatch.setattr(_attempt, "MOST_ABSENCES", 13)
    attempt, waits = attempt_at("mail.of_the_next_release"), []
    for _ in range(13):
        attempt, wait = put_back(attempt, jobs)
        waits.append(wait)
        assert attempt.error.startswith(
            "UnknownHandlerError: there is no handler 'mail"
        )
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1800, 1800]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "The jobs of that name are put back" in caplog.text
    with pytest.raises(_attempt.AttemptFailed) as caught:
        attempt.run(jobs)
    assert caught.value.wait is None
    assert caplog.records[-1].levelname == "ERROR"
    assert attempt.again().absences == 0


def test_a_handler_that_comes_later_runs(jobs):
    """With all its attempts."""
    with pytest.raises(_attempt.AttemptFailed) as caught:
        attempt_at("mail.later").run(jobs)
    jobs.handler("mail.later", pass_job=True)(lambda payload, job: job.attempts)
    assert caught.value.following.run(jobs) == 1


def test_the_due_time_of_another_release_is_put_back(caplog):
    """During a deploy, workers of two releases share the queue."""
    caplog.set_level(logging.INFO)
    old, new, ran = Jobs(), Jobs(), []
    old.every("0 0 * * *", name="report")(ran.append)
    new.every("30 6 * * *", name="report")(ran.append)
    due = "every-report-20261030T063000Z"
    attempt, waited = _attempt.Attempt(due, "report", "1", []), 0.0
    for _ in range(8):
        attempt, wait = put_back(attempt, old)
        waited += wait
    assert waited > 4 * 60
    assert "report-20261030T063000Z is put back" in caplog.text
    attempt.run(new)
    assert ran == [1]
    assert attempt.run(old) is None  # nobody else has it
    assert ran == [1]
    assert "is left out, and counts as done: its schedule" in caplog.text


def test_a_handler_that_enqueues_an_unknown_job_fails(jobs):
    """It is not the job itself that is unknown."""
    jobs.handler("mail.wrong")(lambda payload: jobs.enqueue("mail.wrnog"))
    with pytest.raises(_attempt.AttemptFailed, match="UnknownHandlerError") as caught:
        attempt_at("mail.wrong").run(jobs)
    assert caught.value.wait is None


@pytest.mark.filterwarnings("ignore:.*is multi-threaded:DeprecationWarning")
def test_names_are_remembered_across_forks():
    """RQ runs each job in a process of its own."""
    names = _notices.OncePerName()
    child = os.fork()
    if not child:
        os._exit(0 if names.is_new("mail.forked") else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not names.is_new("mail.forked")
    assert names.is_new("mail.other")


def test_the_error_of_an_unknown_name():
    """It lists the names that there are."""
    assert "'a': this process has registered no handlers. " in str(
        UnknownHandlerError("a", ())
    )
    assert "'a', only 'b', 'c'. " in str(UnknownHandlerError("a", ("b", "c")))


def test_a_worker_without_the_handler(jobs):
    """The job fails with an error that says what to import."""
    with pytest.raises(UnknownHandlerError, match="in the worker, too"):
        jobs.run("mail.new", "{}", "abc", 1, last=True)


def test_errors_with_a_bad_text():
    """The text of an exception may be broken or long."""

    class BadError(Exception):
        def __str__(self):
            raise KeyError

    assert describe(BadError()) == "BadError: its text cannot be read"
    assert describe(ValueError("x" * 5000)) == "ValueError: " + "x" * 988


def test_a_job_as_json():
    """Times are ISO 8601, in UTC."""
    job = Job("abc", "mail.welcome", "done", enqueued_at=utc(0.5))
    assert job.to_dict()["enqueued_at"] == "1970-01-01T00:00:00.500000+00:00"
    assert job.to_dict()["result"] is None
    assert MOST_CRASHES > 1


# ------------------------------------------------------------------ processes


def test_one_engine_for_all_threads(jobs):
    """Two threads that make one at the same time share it; the other is closed."""
    closed, barrier = [], threading.Barrier(2)

    class Slow(Stored):
        def __init__(self, url, jobs):
            super().__init__()
            barrier.wait(10)

        def close(self):
            closed.append(self)

    jobs._url, jobs._make = "slow://", Slow
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(jobs.engine)) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] is found[1] is jobs.engine
    assert len(closed) == 1


def test_without_an_engine_a_refused_job_is_forgotten(jobs):
    """So that its repeat runs."""
    seen = []
    jobs.handler("sees")(seen.append)

    def enqueue(*ids):
        return lambda: [jobs.enqueue("sees", each, job_id=each) for each in ids]

    app = DeferMiddleware(app_that(enqueue("a", "b")).app, max_calls=3)
    assert get(app).status == "503 Service Unavailable"
    assert jobs.status("b") is None
    assert get(app_that(enqueue("b"))).status == "200 OK"
    assert seen[-1] == "b"


def test_without_an_engine_in_a_block_inside_a_request(jobs):
    """The job still runs after the response."""
    seen = []
    jobs.handler("sees")(seen.append)

    def enqueue():
        with deferring():
            jobs.enqueue("sees", "ran")

    body = app_that(enqueue)(make_environ(), lambda *args: seen.append("head"))
    seen.extend(body)
    body.close()
    assert seen == ["head", b"None", "ran"]


def run_in_a_request(jobs):
    """With jobs.eager(), inside a request, and with Jobs(None) after it."""
    get(DeferMiddleware(text_app(lambda: jobs.enqueue("work"))))


def run_as_a_worker(jobs):
    """As the worker of an engine does, with no scope around it."""
    Attempt("id", "work", "null", []).run(jobs)


@pytest.mark.promise("L19")
@pytest.mark.parametrize("run", [
    run_in_a_request, run_as_a_worker, lambda jobs: jobs.enqueue("work"),
])  # fmt: skip
@pytest.mark.parametrize("eager", [False, True])
def test_a_handler_defers(ran, run, eager):
    """Its calls run at its end, before the job is done; joined by calls of theirs."""
    jobs = Jobs(None)

    @jobs.handler("work", pass_job=True)
    def work(payload, job):
        defer(ran.append, "skipped").on_failure()
        defer(lambda: defer(ran.append, "of a call"))
        defer(divmod, 1, 0)
        if eager is False and run is not run_as_a_worker:
            defer(lambda: ran.append(jobs.status(job.id).state))
        before_response(ran.append, "held")
        ran.append("handler")

    with jobs.eager() if eager else nullcontext():
        run(jobs)
    assert [each for each in ran if each != "running"] == [
        "handler", "held", "of a call",
    ]  # fmt: skip
    assert current_scope() is None


@pytest.mark.promise("L19")
def test_calls_of_a_handler_that_fails(ran):
    """Are skipped, but for those for failures; and so they are if a held one fails."""
    jobs = Jobs(None)

    @jobs.handler("work")
    def work(payload):
        defer(ran.append, "skipped")
        defer(ran.append, "failure").on_failure()
        before_response(divmod, 1, 0)
        if payload == "raise":
            raise ValueError

    for payload in ('"raise"', "null"):
        with pytest.raises(AttemptFailed):
            Attempt("id", "work", payload, []).run(jobs)
    assert ran == ["failure"] * 2


def test_an_order_to_stop_ends_the_calls_of_a_handler(ran, caplog):
    """And the attempt: the job is not done, and runs again."""
    jobs = Jobs(None)

    def stop():
        raise KeyboardInterrupt

    @jobs.handler("work")
    def work(payload):
        defer(stop).named("stop")
        defer(ran.append, "lost").named("next")

    with pytest.raises(KeyboardInterrupt):
        Attempt("id", "work", "null", []).run(jobs, (KeyboardInterrupt,))
    assert ran == []
    assert "call stop lost" in caplog.text
    assert "call next lost" in caplog.text


@pytest.mark.promise("L20")
def test_without_an_engine_a_job_may_enqueue_the_next(ran):
    """And so on, in a request: none runs inside of another."""
    jobs = Jobs(None)

    @jobs.handler("work")
    def work(number):
        ran.append(len(inspect.stack()))
        if number:
            jobs.enqueue("work", number - 1)

    with deferring():
        jobs.enqueue("work", 30)
    assert len(ran) == 31
    assert len(set(ran)) == 1


def test_the_payload_is_not_shown():
    """It is for code; what is printed, or served as JSON, leaves it out."""
    jobs = Jobs(None)
    jobs.handler("mail")(lambda payload: None)
    with jobs.captured():
        job = jobs.status(jobs.enqueue("mail", "secret"))
    assert job.payload == '"secret"'
    assert "secret" not in repr(job)
    assert "payload" not in job.to_dict()
