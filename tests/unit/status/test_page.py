"""The page: what it answers, what it shows, and what it never does."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from datetime import timedelta
from types import SimpleNamespace

import pytest

from wsgi_defer import DeferMiddleware
from wsgi_defer.jobs import JobsUnavailable, NotSupported
from wsgi_defer.jobs._schedule import Schedule
from wsgi_defer.status import StatusPage

from ...helpers.client import get
from .fakes import (
    NASTY,
    NOW,
    FakeJobs,
    ask,
    calls,
    failure,
    forms,
    job,
    times,
    worker,
)

pytestmark = pytest.mark.usefixtures("show")


def open_page(**options):
    """A page for everybody."""
    return StatusPage(allow=lambda environ: True, **options)


def html(page=None, query=""):
    """What the page says, in words with a space in between."""
    body = (
        ask(page or open_page(), query)
        .body.decode()
        .partition("<main>")[2]
        .partition("</main>")[0]
    )
    return " ".join(re.sub(r"<[^>]*>", " ", body.replace("<wbr>", "")).split())


def test_nobody_gets_in_whom_allow_refuses():
    """Whatever is asked for, and whoever asks, before anything is read."""
    page = StatusPage(
        allow=lambda environ: environ.get("REMOTE_USER") == "ada",
        jobs=FakeJobs(), actions=True,
    )  # fmt: skip
    assert ask(page, REMOTE_USER="ada").status == "200 OK"
    for path, query, method in (
        ("/", "", "GET"), ("/", "format=json", "GET"), ("/", "json", "GET"),
        ("/metrics", "", "GET"), ("/nothing", "", "GET"), ("/", "", "POST"),
    ):  # fmt: skip
        reply = ask(page, query, path, method)
        assert reply.status == "403 Forbidden"
        assert b"allow=" in reply.body
        assert b"shop" not in reply.body


def test_headers():
    """Nothing is kept, nothing comes from elsewhere, and nobody frames it."""
    for query in ("", "format=json", "json"):
        reply = ask(open_page(), query)
        assert reply.headers["Cache-Control"] == "no-store"
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert reply.headers["Referrer-Policy"] == "no-referrer"
        assert reply.headers["Content-Length"] == str(len(reply.body))
    policy = dict(
        part.split(" ", 1)
        for part in reply.headers["Content-Security-Policy"].split("; ")
    )
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    body = ask(open_page()).body.decode()
    for tag, source in (("style", "style-src"), ("script", "script-src")):
        [text] = re.findall(f"<{tag}>(.*?)</{tag}>", body, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[source] == f"'sha256-{digest}'"
    assert "//" not in re.sub(r"//.*\n", "", body)
    assert " style=" not in body


@pytest.mark.parametrize(
    ("method", "path", "query", "status"),
    [
        ("GET", "", "", "200 OK"),
        ("HEAD", "/", "", "200 OK"),
        ("HEAD", "/", "format=json", "200 OK"),
        ("HEAD", "/metrics", "", "200 OK"),
        ("GET", "/other", "", "404 Not Found"),
        ("GET", "/", "format=xml", "400 Bad Request"),
        ("POST", "/", "", "405 Method Not Allowed"),
        ("DELETE", "/", "", "405 Method Not Allowed"),
        ("POST", "/metrics", "", "405 Method Not Allowed"),
    ],
)
def test_methods_and_paths(method, path, query, status):
    reply = ask(open_page(), query, path, method)
    assert reply.status == status
    assert ("Allow" in reply.headers) == status.startswith("405")
    length = int(reply.headers["Content-Length"])
    assert length > 0
    assert len(reply.body) == (0 if method == "HEAD" else length)


def test_workers():
    """FPM's figures, and a row for each."""
    text = html()
    for shown in (
        "Idle workers 1 of 3",
        "In a request 1",
        "After the response 1",
        "Waiting calls 3 the oldest for 1.2 s",
        "Listen queue 2 longest 11, of 2,048",
        "All workers busy 6 times",
        "Requests served 345",
        "Slow calls 4",
        "Running for 2 h 0 min since 2027-01-15 06:00:00",
        "101 after response 2.5 s shop.mail request r-2 3 12 82 MB 1 h 0 min",
        "4 % request, 8 % after response, 88 % idle",
    ):
        assert shown in text


def test_calls_and_failures():
    """By name, and the last that failed."""
    text = html()
    assert "shop.mail 8 2 1 0 3 1 32 ms 955 ms 662 ms 1.0 s" in text
    assert "2027-01-15 07:59:55 shop.mail OSError /srv/shop.py:7 r-1 100" in text


def test_a_process_without_the_hooks(show):
    """It says what it does not see."""
    show(whole=False, workers=(), calls=(), failures=(), queue=None,
         queue_limit=None, oldest_waiting=None, name="", requests=0)  # fmt: skip
    text = html()
    assert "This is one process only" in text
    for nothing in ("No worker has begun", "No call has been deferred",
                    "No call has failed"):  # fmt: skip
        assert nothing in text


def test_everything_of_the_apps_is_escaped(show):
    """Markup, control characters, and what turns the reading direction."""
    show(
        name=NASTY,
        workers=(worker(state=NASTY, call=NASTY, request_id=NASTY),),
        calls=(calls(NASTY, waited=times(), ran=times()),),
        failures=(failure(name=NASTY, error=NASTY, origin=NASTY, request_id=NASTY),),
    )
    nasty = job(error=NASTY)
    object.__setattr__(nasty, "name", NASTY)
    jobs = FakeJobs([nasty], [nasty], {"counts": JobsUnavailable(NASTY, "x")})
    page = open_page(jobs=jobs, actions=True)
    jobs.raises = {}
    body = ask(page).body.decode()
    assert "onclick='" not in body
    assert "\x1b" not in body
    assert "\u202e" not in body
    assert (
        body.count("&lt;b onclick=&#x27;x&#x27;&gt;&quot;&amp;\\x1b[31m\\u202e\\n") > 9
    )
    for query in ("format=json", "json&full"):
        assert json.loads(ask(page, query).body)


def test_a_browser_without_scripts_gets_it_anew():
    """Until somebody asks for it to stop."""
    assert b'http-equiv="refresh"' in ask(open_page()).body
    assert b'http-equiv="refresh"' not in ask(open_page(), "refresh=no").body


def test_jobs():
    """Counts, lists and errors; without actions, no form."""
    jobs = FakeJobs(
        [job()], [job(), job("j-2", "scheduled", error=None, enqueued_at=None)]
    )
    page = open_page(jobs=jobs)
    text = html(page)
    assert "j-1 mail.welcome 5 2027-01-15 08:00:00 OSError: down" in text
    assert "j-2" in text
    assert forms(ask(page)) == []
    told = json.loads(ask(page, "format=json").body)["jobs"]
    assert told["counts"] == {"mail.welcome": {"queued": 0, "done": 0, "failed": 2}}
    assert told["failed"][0]["error"] == "OSError: down"
    assert "result" not in told["failed"][0]
    assert jobs.asked == 1  # for all of these


def test_periodic_jobs():
    """Those that are due first come first."""
    jobs = FakeJobs()
    jobs.schedules = (
        Schedule("reports.yearly", timedelta(days=1000)),
        Schedule("stock.sync", timedelta(seconds=90)),
    )
    text = html(open_page(jobs=jobs))
    assert re.search(r"stock.sync 1 min 30 s 2\d{3}-.* reports.yearly 1000 d 0 h", text)
    jobs.schedules = (Schedule("reports.nightly", "30 2 * * *"),)
    assert "reports.nightly 30 2 * * * UTC" in html(open_page(jobs=jobs))


def test_an_engine_that_is_down_or_cannot_tell():
    """The rest of the page is there."""
    down = FakeJobs(raises={"failed": JobsUnavailable("RQ", "listing jobs")})
    page = open_page(jobs=down)
    assert "RQ is not available" in html(page)
    cannot = FakeJobs([job()], raises={"recent": NotSupported("Celery", "list jobs")})
    page = open_page(jobs=cannot)
    text = html(page)
    assert "Celery cannot list jobs" in text
    assert "j-1" in text


def test_json():
    """In our names, which are documented."""
    told = json.loads(ask(open_page(), "format=json").body)
    assert told["wsgi_defer"] == 1
    assert (told["name"], told["whole"], told["requests"]) == ("shop", True, 345)
    assert told["totals"]["after_response"] == 1
    assert told["workers"][1]["call"] == "shop.mail"
    assert told["workers"][1]["minute_ms"][59] == [250, 500]
    assert told["calls"][0]["ran"]["count"] == 10
    assert told["calls"][0]["ran"]["median"] == pytest.approx(0.66, abs=0.01)
    assert told["failures"][0]["origin"] == "/srv/shop.py:7"
    assert "jobs" not in told


def test_json_in_the_names_of_fpm(show):
    """As FPM prints them, so that what reads FPM's page reads this one."""
    page = open_page()
    told = json.loads(ask(page, "json&full").body)
    processes = told.pop("processes")
    assert told == {
        "pool": "shop", "process manager": "static", "start time": int(NOW) - 7200,
        "start since": 7200, "accepted conn": 345, "listen queue": 2,
        "max listen queue": 11, "listen queue len": 2048, "idle processes": 1,
        "active processes": 2, "total processes": 3, "max active processes": 2,
        "max children reached": 6, "slow requests": 4, "after response processes": 1,
        "waiting calls": 3,
    }  # fmt: skip
    assert [each["state"] for each in processes] == ["Idle", "Finishing", "Running"]
    assert processes[0]["request duration"] == 2_500_000
    show(workers=(worker(),))
    told = json.loads(ask(page, "json").body)
    assert (told["active processes"], told["max active processes"]) == (0, 2)
    assert "processes" not in told


@pytest.mark.parametrize(
    ("path", "query"), [("/metrics", ""), ("", "format=openmetrics")]
)
def test_metrics(path, query):
    """For Prometheus: those of the ledger, and the jobs."""
    reply = ask(open_page(jobs=FakeJobs()), query, path)
    assert reply.headers["Content-Type"].startswith("application/openmetrics-text")
    text = reply.body.decode()
    assert 'wsgi_defer_calls_total{call="shop.mail",result="finished"} 8\n' in text
    assert "wsgi_defer_jobs{" in text
    assert text.endswith("# EOF\n")
    assert "wsgi_defer_jobs{" not in ask(open_page(), query, path).body.decode()


def test_it_defers_nothing():
    """Its own requests do not change what it shows."""
    queued = []
    observer = SimpleNamespace(queued=lambda call, scope: queued.append(call))
    get(DeferMiddleware(open_page(), observers=[observer]))
    assert queued == []


def test_recording_begins_when_the_page_is_made(recorded):
    """Where there are no hooks of gunicorn, which record anyway."""
    open_page()
    assert recorded == [True]
