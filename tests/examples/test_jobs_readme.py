"""The page about jobs tells the truth: its code runs."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from wsgi_defer import deferring

from ..helpers.client import get
from ..system.test_jobs_adoption import SHOP

PAGE = Path(__file__).parents[2] / "wsgi_defer" / "jobs" / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def block(marker):
    (found,) = [code for code in BLOCKS if marker in code]
    return found


@pytest.fixture
def shop(ran):
    """The first program, without an engine."""
    namespace = {"__name__": "shop", "send_mail": ran.append}
    code = block("def view(environ")
    assert '"sqlite:////srv/shop/jobs.db"' in code
    exec(code.replace('"sqlite:////srv/shop/jobs.db"', "None"), namespace)
    return namespace


@pytest.fixture
def flask_app():
    """The names of the Flask app, without an engine."""
    namespace = {"__name__": "shop"}
    code = block("Flask(__name__)")
    assert code.removeprefix("# shop.py") == SHOP
    exec(code.replace('"sqlite:///jobs.db"', "None"), namespace)
    return namespace


@pytest.fixture
def client(flask_app):
    """A client of it."""
    return flask_app["app"].test_client()


def test_the_first_program(shop, ran):
    """The client has an id, and the mail is sent."""
    reply = get(shop["app"])
    assert reply.status == "202 Accepted"
    assert shop["jobs"].status(reply.body.decode()).state == "done"
    assert ran == ["ada@example.org"]


def test_flask(client, capsys):
    """From 202 to the status. test_jobs_adoption.py runs its command."""
    response = client.post("/signup")
    assert response.status_code == 202
    assert client.get(response.headers["Location"]).json["state"] == "done"
    assert capsys.readouterr().out == "a mail to ada@example.org\n"


def test_again_and_again(shop, ran):
    """It is a handler, with times."""
    jobs = shop["jobs"]
    exec(block("jobs.every"), {"jobs": jobs, "write_report": lambda: ran.append(1)})
    [schedule] = jobs.schedules
    assert str(schedule) == "30 2 * * * Europe/Berlin"
    jobs.enqueue("reports.nightly")
    assert ran == [1]


def test_the_helpers_of_tests(flask_app, client, capsys):
    """Captured jobs do not run, eager ones do."""
    exec(block("jobs.captured()"), {"jobs": flask_app["jobs"], "client": client})
    assert capsys.readouterr().out == "a mail to ada@example.org\n"


def test_a_queue_that_users_have(ran):
    """The call of their queue is held."""
    task = SimpleNamespace(delay=ran.append)
    queue = SimpleNamespace(enqueue=lambda fn, *args: ran.append((fn, *args)))
    with deferring():
        exec(block("task.delay"), {"task": task, "queue": queue, "count": len})
        assert ran == []
    assert ran == [42, (len, 42)]


def test_no_block_is_forgotten():
    """A new block of code gets a test."""
    assert len(BLOCKS) == 5
