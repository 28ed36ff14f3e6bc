"""The page about jobs tells the truth: its code runs."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from wsgi_defer import deferring

from ..helpers.client import get

PAGE = Path(__file__).parents[2] / "wsgi_defer" / "jobs" / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def block(marker):
    (found,) = [code for code in BLOCKS if marker in code]
    return found


@pytest.fixture
def shop(ran):
    """The first program, without an engine."""
    namespace = {"__name__": "shop", "send_mail": ran.append}
    code = block("# shop.py")
    assert '"sqlite:////srv/shop/jobs.db"' in code
    exec(code.replace('"sqlite:////srv/shop/jobs.db"', "None"), namespace)
    return namespace


@pytest.fixture
def client(shop):
    """A client of the Flask app."""
    namespace = {"__name__": "shop_flask", "jobs": shop["jobs"]}
    exec(block("# shop_flask.py"), namespace)
    return namespace["app"].test_client()


def test_the_first_program(shop, ran):
    """The client has an id, and the mail is sent."""
    reply = get(shop["app"])
    assert reply.status == "202 Accepted"
    assert shop["jobs"].status(reply.body.decode()).state == "done"
    assert ran == ["ada@example.org"]


def test_flask(client, ran):
    """From 202 to the status."""
    response = client.post("/signup")
    assert response.status_code == 202
    assert client.get(response.headers["Location"]).json["state"] == "done"
    assert ran == ["ada@example.org"]


def test_the_helpers_of_tests(shop, client, ran):
    """Captured jobs do not run, eager ones do."""
    exec(block("jobs.captured()"), {"jobs": shop["jobs"], "client": client})
    assert ran == ["ada@example.org"]


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
    assert len(BLOCKS) == 4
