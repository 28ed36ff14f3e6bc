"""What the page does to jobs, and for whom."""

from __future__ import annotations

import logging

import pytest

from wsgi_defer.jobs import (
    JobNotFailedError,
    Jobs,
    JobsUnavailable,
    NotSupported,
    UnknownJobError,
)
from wsgi_defer.status import StatusPage, _actions

from .fakes import FakeJobs, ask, forms, job, post

pytestmark = pytest.mark.usefixtures("show")
ADA = {"REMOTE_USER": "ada", "HTTP_HOST": "shop.example"}


@pytest.fixture
def jobs():
    return FakeJobs([job()], [job("j-2", "queued", error=None), job("j-3", "done")])


@pytest.fixture
def page(jobs):
    return StatusPage(allow=lambda environ: True, jobs=jobs, actions=True)


@pytest.fixture
def form(page):
    """That of the one failed job."""
    return next(each for each in forms(ask(page, **ADA)) if each["job"] == "j-1")


def test_actions_need_jobs():
    with pytest.raises(TypeError, match="needs jobs="):
        StatusPage(allow=lambda environ: True, actions=True)


def test_forms_do_what_they_say(page, jobs, caplog):
    """For failed jobs and those that wait; the page comes again, and the log tells."""
    found = forms(ask(page, **ADA))
    assert [(each["action"], each["job"]) for each in found] == [
        ("retry-all", ""), ("retry", "j-1"), ("cancel", "j-2"),
    ]  # fmt: skip
    for each in found:
        reply = post(page, each, HTTP_ORIGIN="https://shop.example", **ADA)
        assert reply.status == "303 See Other"
    assert jobs.done == [("retry_all", 2), ("retry", "j-1"), ("cancel", "j-2")]
    assert [record.getMessage() for record in caplog.records] == [
        "status page: ada asks for retry-all of all failed jobs",
        "status page: ada asks for retry of job j-1",
        "status page: ada asks for cancel of job j-2",
    ]
    where = reply.headers["Location"]
    assert where == "?note=cancelled#jobs"
    assert b"The job is cancelled." in ask(page, where[1:].partition("#")[0]).body
    assert b"<b>" not in ask(page, "note=<b>").body


def test_what_was_done_is_seen_at_once(page, jobs, form):
    """The board is not that of a moment ago."""
    before = jobs.asked
    post(page, form, **ADA)
    ask(page)
    assert jobs.asked == before + 1


@pytest.mark.parametrize(
    ("environ", "logged"),
    [
        ({"REMOTE_USER": "ada\nERROR forged"}, "ada\\nERROR forged"),
        ({"REMOTE_USER": "", "REMOTE_ADDR": "10.0.0.7"}, "10.0.0.7"),
        ({"REMOTE_USER": "", "REMOTE_ADDR": ""}, "a client on a unix socket"),
    ],
)
def test_who_it_was(page, caplog, environ, logged):
    """The user, or the address; neither can write a line of its own."""
    [_, form, _] = forms(ask(page, **environ))
    assert post(page, form, **environ).status == "303 See Other"
    assert f"status page: {logged} asks" in caplog.text


@pytest.mark.parametrize(
    "environ",
    [
        {"HTTP_SEC_FETCH_SITE": "cross-site"},
        {"HTTP_SEC_FETCH_SITE": "same-site"},
        {"HTTP_SEC_FETCH_SITE": "none"},
        {"HTTP_SEC_FETCH_SITE": "cross-site", "HTTP_ORIGIN": "https://shop.example"},
        {"HTTP_ORIGIN": "https://evil.example"},
        {"HTTP_ORIGIN": "https://shop.example.evil.example"},
        {"HTTP_ORIGIN": "null"},
    ],
)
def test_forms_of_other_sites(page, jobs, form, environ):
    """They are refused, even with the token."""
    reply = post(page, form, **ADA, **environ)
    assert reply.status == "403 Forbidden"
    assert b"another site" in reply.body
    assert jobs.done == []


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"HTTP_SEC_FETCH_SITE": "same-origin"},
        {"HTTP_ORIGIN": "http://shop.example"},
    ],
)
def test_forms_of_this_site(page, jobs, form, environ):
    """Browsers that do not say from where have the token alone."""
    assert post(page, form, **ADA, **environ).status == "303 See Other"
    assert jobs.done == [("retry", "j-1")]


@pytest.mark.parametrize(
    "forged",
    [
        lambda token: "",
        lambda token: "ä",
        lambda token: token[:-1] + ("0" if token[-1] != "0" else "1"),
        lambda token: "9" + token,
        lambda token: token.partition(".")[2],
    ],
)
def test_forged_tokens(page, jobs, form, forged):
    reply = post(page, {**form, "token": forged(form["token"])}, **ADA)
    assert reply.status == "403 Forbidden"
    assert jobs.done == []


def test_a_token_is_for_one_user(page, jobs, form):
    """Eve may see the page, but does not act as Ada."""
    reply = post(page, form, REMOTE_USER="eve")
    assert reply.status == "403 Forbidden"


def test_an_old_token(page, jobs, form, monkeypatch):
    now = _actions.time.time()
    monkeypatch.setattr(_actions.time, "time", lambda: now + _actions.LASTS + 2)
    reply = post(page, form, **ADA)
    assert reply.status == "403 Forbidden"
    assert b"too old" in reply.body
    assert jobs.done == []


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"CONTENT_TYPE": "application/json"}, "415"),
        ({"CONTENT_LENGTH": "100000"}, "413"),
        ({"CONTENT_LENGTH": "-1"}, "413"),
        ({"CONTENT_LENGTH": "x"}, "413"),
        ({"CONTENT_LENGTH": ""}, "403"),
    ],
)
def test_what_is_no_form(page, jobs, form, more, status):
    assert post(page, form, **ADA, **more).status.startswith(status)
    assert jobs.done == []


def test_a_forged_id_writes_no_line_of_its_own(page, form, caplog):
    post(page, {**form, "job": "j-1\nERROR forged"}, **ADA)
    assert "retry of job j-1\\nERROR forged" in caplog.text


def test_an_unknown_action(page, form):
    reply = post(page, {**form, "action": "drop"}, **ADA)
    assert reply.status == "400 Bad Request"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UnknownJobError("j-1"), "409 Conflict"),
        (JobNotFailedError("j-1", "queued"), "409 Conflict"),
        (NotSupported("Celery", "retry jobs"), "409 Conflict"),
        (JobsUnavailable("RQ", "retrying"), "503 Service Unavailable"),
    ],
)
def test_what_cannot_be_done(page, jobs, form, error, status, caplog):
    """The person is told, with a way back; the log tells who has tried."""
    jobs.raises["retry"] = error
    reply = post(page, form, **ADA)
    assert reply.status == status
    assert b'<a href="?">' in reply.body
    [record] = caplog.records
    assert record.levelno == logging.WARNING


def test_reading_changes_nothing(page, jobs, form):
    """GET does not act, whatever it carries."""
    ask(page, "&".join(f"{name}={value}" for name, value in form.items()), **ADA)
    assert jobs.done == []


def test_jobs_as_they_are():
    """A job that has failed is shown, retried, and done."""
    jobs, fails = Jobs(None), [True]

    @jobs.handler("mail.welcome")
    def welcome(payload):
        if fails:
            raise OSError(payload)

    job_id = jobs.enqueue("mail.welcome", "the server is down")
    page = StatusPage(allow=lambda environ: True, jobs=jobs, actions=True)
    shown = ask(page)
    assert b"OSError: the server is down" in shown.body
    [form] = [each for each in forms(shown) if each["job"] == job_id]
    fails.clear()
    assert post(page, form).status == "303 See Other"
    assert jobs.status(job_id).state == "done"
    assert job_id not in [each["job"] for each in forms(ask(page))]
