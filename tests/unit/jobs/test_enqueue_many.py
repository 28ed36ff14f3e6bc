"""Several jobs together: all of them are enqueued, or none."""

from __future__ import annotations

import pytest

from wsgi_defer import DeferMiddleware, TooManyCallsError, defer
from wsgi_defer.jobs import (
    Jobs,
    NotSupported,
    PayloadError,
    UnknownHandlerError,
    _enqueuing,
)
from wsgi_defer.jobs.engines.memory import InProcess

from ...helpers.client import get


class Stored(InProcess):
    """An engine that notes what it is given."""

    holds = True
    delays = True

    def __init__(self, jobs):
        super().__init__(jobs)
        self.orders = []

    def enqueue_many(self, orders):
        self.orders.extend(orders)


@pytest.fixture
def jobs():
    made = Jobs(None)
    made.handler("mail.welcome")(print)
    made.handler("report")(print)
    return made


@pytest.fixture
def stored(jobs):
    """What was stored so far."""
    engine = Stored(jobs)
    with jobs._use(engine):
        yield engine.orders


def test_each_has_an_id(jobs, stored):
    """In the order in which they were given, from anything that can be iterated."""
    ids = jobs.enqueue_many((name, 1) for name in ("mail.welcome", "report"))
    assert [order.id for order in stored] == ids
    assert [order.name for order in stored] == ["mail.welcome", "report"]
    assert len(set(ids)) == 2
    jobs.enqueue_many([("report", None)], delay=5)
    assert stored[-1].delay == 5


def test_none_are_none(jobs, stored):
    """Nothing is stored, and that is no error."""
    assert jobs.enqueue_many([]) == []
    assert stored == []


@pytest.mark.parametrize(
    ("bad", "error"),
    [(("unknown", 1), UnknownHandlerError), (("report", {1}), PayloadError)],
)
def test_one_bad_job_refuses_all(jobs, stored, bad, error):
    """Before anything is stored."""
    with pytest.raises(error):
        jobs.enqueue_many([("report", 1), bad])
    assert stored == []


def test_a_delay_that_there_cannot_be(jobs):
    """As for a single job."""
    with pytest.raises(NotSupported):
        jobs.enqueue_many([("report", 1)], delay=1)
    with pytest.raises(ValueError, match="delay takes seconds"):
        jobs.enqueue_many([("report", 1)], delay=-1)


def test_too_many_at_once(jobs, stored, monkeypatch):
    """Others could not write meanwhile."""
    monkeypatch.setattr(_enqueuing, "MOST_AT_ONCE", 2)
    with pytest.raises(ValueError, match="takes up to 2 jobs, not 3"):
        jobs.enqueue_many([("report", number) for number in range(3)])
    assert stored == []


@pytest.mark.parametrize(("status", "count"), [("200 OK", 2), ("500 Oh", 0)])
def test_in_a_request_they_are_held(jobs, stored, status, count):
    """Until the response starts, and only if it is a success."""

    def app(environ, start_response):
        jobs.enqueue_many([("report", 1), ("report", 2)])
        assert stored == []
        start_response(status, [])
        return []

    get(DeferMiddleware(app))
    assert len(stored) == count


def test_without_holding(jobs, stored):
    """They are stored at once."""

    def app(environ, start_response):
        jobs.enqueue_many([("report", 1), ("report", 2)], hold=False)
        assert len(stored) == 2
        start_response("500 Oh", [])
        return []

    get(DeferMiddleware(app))
    assert len(stored) == 2


def test_captured(jobs):
    """In tests, too."""
    with jobs.captured() as captured:
        jobs.enqueue_many([("report", 1), ("mail.welcome", 2)])
    assert [(job.name, job.payload) for job in captured] == [
        ("report", 1),
        ("mail.welcome", 2),
    ]


def test_too_many_for_a_request(jobs):
    """Without an engine, they are calls: none of them runs, and the client gets 503."""
    ran = []
    jobs.handler("runs")(ran.append)

    def app(environ, start_response):
        ids.extend(jobs.enqueue_many([("runs", number) for number in range(5)]))
        start_response("200 OK", [])
        return []

    for most, status in ((4, "503"), (6, "200")):
        ids: list[str] = []
        assert get(DeferMiddleware(app, max_calls=most)).status.startswith(status)
        assert len(ids) == 5
        known = [jobs.status(job_id) is not None for job_id in ids]
        assert set(known) == {status == "200"}
        assert ran == [*range(5)] * (status == "200")


def test_a_retry_that_is_refused_forgets_nothing(jobs):
    """The request has too many calls."""

    @jobs.handler("fails")
    def fails(payload):
        raise ValueError

    job_id = jobs.enqueue("fails", 1)
    assert jobs.status(job_id).state == "failed"

    def app(environ, start_response):
        defer(int)
        with pytest.raises(TooManyCallsError):
            jobs.retry(job_id)
        start_response("200 OK", [])
        return []

    get(DeferMiddleware(app, max_calls=1))
    assert jobs.status(job_id).state == "failed"
