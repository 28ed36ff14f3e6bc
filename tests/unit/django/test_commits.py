"""Calls that wait for the commit of a transaction."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.http import HttpResponse
from django.test import Client, TestCase
from django.test.utils import override_settings

from wsgi_defer import NoScopeError, before_response, current_scope, defer, deferring
from wsgi_defer.django import defer_on_commit
from wsgi_defer.jobs import Jobs

WAYS = {
    "recipe": lambda fn, *args: transaction.on_commit(partial(defer, fn, *args)),
    "function": defer_on_commit,
}


@pytest.fixture(params=WAYS)
def on_commit(request):
    return WAYS[request.param]


def test_a_block(client, view, ran, on_commit):
    """What it defers is deferred when it commits, and never if it is rolled back."""

    @view
    def page(request):
        with transaction.atomic():
            on_commit(ran.append, "committed")
            assert current_scope().pending == ()
        with transaction.atomic():
            on_commit(ran.append, "rolled back")
            transaction.set_rollback(True)
        with transaction.atomic():
            try:
                with transaction.atomic():
                    on_commit(ran.append, "savepoint")
                    raise ValueError("no")
            except ValueError:
                pass
        on_commit(ran.append, "no transaction")
        assert ran == []
        return HttpResponse("hello")

    client.get("/")
    assert ran == ["committed", "no transaction"]


@pytest.fixture
def atomic_requests(monkeypatch):
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", True)


@pytest.mark.parametrize("status", [200, 404, None])
def test_atomic_requests(view, ran, atomic_requests, on_commit, status):
    """A rolled-back request follows the rule of the status, as all others do."""

    @view
    def page(request):
        User.objects.create(username="ada")
        defer(ran.append, "call")
        defer(ran.append, "failure").on_failure()
        on_commit(ran.append, "committed")
        if status is None:
            raise ValueError("no")
        return HttpResponse("hello", status=status)

    Client(raise_request_exception=False).get("/")
    expected = {200: ["call", "committed"], 404: ["failure"], None: ["failure"]}
    assert ran == expected[status]
    assert User.objects.filter(username="ada").delete()[0] == (status is not None)


def test_the_line_and_the_arguments(client, view, ran):
    """Of the view; keywords are the function's, but for ``using``."""

    def note(*args, **kwargs):
        ran.append((args, kwargs))

    origins = []

    @view
    def page(request):
        with transaction.atomic(using="default"):
            defer_on_commit(note, 1, using="default", b=2)
        origins.extend(call.origin for call in current_scope().pending)
        return HttpResponse("hello")

    client.get("/")
    assert ran == [((1,), {"b": 2})]
    assert __file__ in origins[0]


def test_mistakes(client, view, ran):
    """They raise where they are made."""
    with pytest.raises(TypeError, match="defer_on_commit\\(send, to\\)"):
        defer_on_commit(None)
    with pytest.raises(NoScopeError, match="defer_on_commit"):
        defer_on_commit(ran.append, 1)
    with transaction.atomic():
        with deferring():
            defer_on_commit(ran.append, 1)
        [(_, late, _)] = connection.run_on_commit
        with pytest.raises(NoScopeError):
            late()
        transaction.set_rollback(True)
    assert ran == []


class InTestCase(TestCase):
    """Its transaction is around the request."""

    ran: list[str]

    def send(self, status=200, execute=True):
        with self.captureOnCommitCallbacks(execute=execute) as callbacks:
            response = Client().get("/", {"status": status})
        return response.status_code, callbacks


@pytest.fixture
def case():
    case = InTestCase()
    InTestCase.setUpClass()
    case._pre_setup()
    yield case
    case._post_teardown()
    InTestCase.tearDownClass()
    InTestCase.doClassCleanups()


@pytest.mark.parametrize("atomic", [False, True])
def test_capture_on_commit_callbacks(case, view, ran, on_commit, atomic, monkeypatch):
    """They have a scope of their own, with the outcome of the request."""
    monkeypatch.setitem(connection.settings_dict, "ATOMIC_REQUESTS", atomic)

    @view
    def page(request):
        with transaction.atomic():
            on_commit(ran.append, "committed")
            on_commit(defer, ran.append, "nested")
            transaction.on_commit(lambda: defer(ran.append, "always").always())
            transaction.on_commit(lambda: ran.append("at once"))
        return HttpResponse("hello", status=int(request.GET["status"]))

    assert case.send()[0] == 200
    assert ran == ["committed", "nested", "always", "at once"]
    ran.clear()
    status, callbacks = case.send(404)
    assert (status, len(callbacks)) == (404, 4)
    assert ran == ["always", "at once"]
    ran.clear()
    _, callbacks = case.send(execute=False)
    assert ran == []
    callbacks[0]()
    assert ran == ["committed"]


def test_held_calls_of_a_test_case(case, view, ran):
    """They run if the request was a success, and what they raise goes up."""

    @view
    def page(request):
        status = int(request.GET["status"])
        transaction.on_commit(lambda: before_response(ran.append, "held"))
        if status == 201:
            transaction.on_commit(lambda: before_response(int, "x"))
        return HttpResponse("hello", status=status)

    case.send()
    case.send(404)
    assert ran == ["held"]
    with pytest.raises(ValueError, match="invalid literal"):
        case.send(201)


def test_the_rest_of_a_test(case, ran):
    """Outside a request, it is as it was."""
    with case.captureOnCommitCallbacks() as callbacks:
        transaction.on_commit(lambda: defer(ran.append, 1))
    with pytest.raises(NoScopeError):
        callbacks[0]()


@override_settings(WSGI_DEFER={"max_calls": 1})
def test_options_hold_after_the_request(case, view, ran):
    """Those of the settings."""

    @view
    def page(request):
        transaction.on_commit(lambda: ran.append(current_scope().options.max_calls))
        return HttpResponse("hello")

    case.send()
    assert ran == [1]


@pytest.fixture
def jobs():
    jobs = Jobs(None)
    jobs.handler("mail")(print)
    with jobs.captured() as stored:
        yield SimpleNamespace(
            enqueue=jobs.enqueue, enqueue_many=jobs.enqueue_many, stored=stored
        )


@pytest.mark.parametrize("status", [200, 404])
def test_jobs(client, view, jobs, status):
    """They have their ids at once, and wait for the commit and for the status."""
    ids = []

    @view
    def page(request):
        with transaction.atomic():
            ids.append(jobs.enqueue("mail", 1, after_commit=True))
        with transaction.atomic():
            jobs.enqueue("mail", 2, after_commit=True, using="default")
            transaction.set_rollback(True)
        ids.append(jobs.enqueue("mail", 3, after_commit=True))
        with transaction.atomic():
            ids.extend(jobs.enqueue_many([("mail", 5)] * 2, after_commit=True))
        with transaction.atomic():
            jobs.enqueue_many([("mail", 6)], after_commit=True)
            transaction.set_rollback(True)
        ids.append(jobs.enqueue("mail", 4))
        assert jobs.stored == []
        return HttpResponse("hello", status=status)

    client.get("/")
    expected = ids if status == 200 else []
    assert [job.id for job in jobs.stored] == expected


def test_jobs_of_a_test_case(case, view, jobs):
    """Under captureOnCommitCallbacks(), the same rules hold."""

    @view
    def page(request):
        jobs.enqueue("mail", after_commit=True)
        return HttpResponse("hello", status=int(request.GET["status"]))

    case.send(404)
    assert jobs.stored == []
    case.send()
    assert len(jobs.stored) == 1


def test_jobs_outside_a_request(jobs):
    """They are stored when it commits."""
    with transaction.atomic():
        jobs.enqueue("mail", after_commit=True)
        assert jobs.stored == []
    assert len(jobs.stored) == 1
