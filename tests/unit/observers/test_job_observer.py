"""What travels with a job beside its payload, and who is around its attempts."""

from __future__ import annotations

import json
from contextlib import contextmanager

import pytest
from flask import Flask

from wsgi_defer.flask import Defer
from wsgi_defer.jobs import Jobs
from wsgi_defer.jobs._carrier import MOST, flush, parted
from wsgi_defer.observers import JobAttempt, JobObserver


class Sends(JobObserver):
    """Sends that along, and notes what comes."""

    def __init__(self, carrier):
        self.carrier = carrier
        self.seen = []

    def enqueuing(self, name, carrier):
        carrier.update(self.carrier)

    @contextmanager
    def attempting(self, attempt, carrier):
        self.seen.append((attempt, dict(carrier)))
        try:
            yield
        except ValueError as error:
            self.seen.append(error)
            raise


def jobs_with(*observers):
    """``Jobs`` that run in this process, with a handler that keeps payloads."""
    jobs = Jobs(observers=observers)
    jobs.got = []

    @jobs.handler("note")
    def note(payload):
        jobs.got.append(payload)
        if payload == "fail":
            raise ValueError

    return jobs


def stored(jobs, payload):
    """What an engine is given to store."""
    return jobs._order("note", payload, "a", 0).payload


def test_what_an_observer_sends_comes_with_the_job():
    """And the handler gets its payload, as ever."""
    one, two = Sends({"a": "1"}), Sends({"b": "line\nbreak"})
    jobs = jobs_with(one, two)
    jobs.enqueue("note", {"to": "ada"}, job_id="x")
    sent = {"a": "1", "b": "line\nbreak"}
    assert one.seen == two.seen == [(JobAttempt("x", "note", 1, True), sent)]
    assert jobs.got == [{"to": "ada"}]
    assert json.loads(jobs.engine.status("x").payload) == {"to": "ada"}


@pytest.mark.parametrize("observers", [[], [Sends({})], [JobObserver()]])
def test_nothing_to_send(observers):
    """The payload is stored as it is without observers, to the byte."""
    jobs = jobs_with(*observers)
    assert stored(jobs, {"to": "ada"}) == '{"to":"ada"}'
    jobs.enqueue("note", 1)
    assert jobs.got == [1]


def test_a_failure_passes_through(caplog):
    """The observer sees it, and the job has failed with it."""
    sends = Sends({})
    jobs = jobs_with(sends)
    jobs.enqueue("note", "fail", job_id="x")
    assert isinstance(sends.seen[1], ValueError)
    assert jobs.status("x").error == "ValueError: "


class Faulty(JobObserver):
    """Raises here or there."""

    def __init__(self, where):
        self.where = where

    def enqueuing(self, name, carrier):
        carrier["a"] = "1"
        if self.where == "enqueuing":
            raise OSError
        if self.where == "number":
            carrier["b"] = 2
        if self.where == "long":
            carrier["b"] = "x" * MOST

    def flush(self):
        raise OSError

    def attempting(self, attempt, carrier):
        if self.where == "attempting":
            raise OSError
        return self.inside()

    @contextmanager
    def inside(self):
        if self.where == "enter":
            raise OSError
        yield
        if self.where == "exit":
            raise OSError


@pytest.mark.parametrize(
    "where", ["enqueuing", "number", "long", "attempting", "enter", "exit"]
)
def test_a_faulty_observer_harms_no_job(where, caplog):
    """It is logged, once, and other observers see the job."""
    kind = type(f"Faulty_{where}", (Faulty,), {})  # the log knows it by its name
    sends = Sends({"b": "2"})
    jobs = jobs_with(kind(where), sends)
    for number in range(2):
        jobs.enqueue("note", number)
    early = where in ("enqueuing", "number", "long")
    sent = {"b": "2"} if early else {"a": "1", "b": "2"}
    assert [carrier for _, carrier in sends.seen] == [sent, sent]
    assert jobs.got == [0, 1]
    method = "enqueuing" if early else "attempting"
    text = f"the observer Faulty_{where} raised in {method}()"
    assert caplog.text.count(text) == 1


@pytest.mark.parametrize("text", ["1\n{", "1\n[]", "1\n", "1"])
def test_a_line_that_is_none(text):
    """What somebody else has stored there is left alone."""
    assert parted(text) == ("1", {})


class Hears(Sends):
    """Hears of calls, too, as those of ``Defer()`` must."""

    def finished(self, call, scope):
        """It is enough to have it."""


def test_those_of_flask():
    """The observers of ``Defer()`` see the jobs of the app, each of them once."""
    one, two = Hears({}), Hears({})
    app = Flask(__name__)
    Defer(app, observers=[two, one])
    jobs = jobs_with(one)
    jobs.init_app(app)
    assert jobs.observers == [one, two]


def test_flush(caplog):
    """All are told, even if one fails."""
    told = []
    sends = Sends({})
    sends.flush = lambda: told.append(True)
    kind = type("Faulty_flush", (Faulty,), {})
    flush([kind("flush"), JobObserver(), sends])
    assert told == [True]
    assert "the observer Faulty_flush raised in flush()" in caplog.text


@pytest.mark.parametrize("observer", [object(), Sends])
def test_what_is_no_observer(observer):
    """It would see nothing, silently."""
    with pytest.raises(TypeError, match="observer"):
        Jobs(observers=[observer])
