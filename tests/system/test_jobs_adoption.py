"""The ways to start a worker: a Flask command, more modules, and again at a change."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from ..helpers.sqlite import with_sqlite
from ..helpers.waiting import OF_PROCESSES, until

pytestmark = with_sqlite

pytest.importorskip("dbos")
HOME = Path(__file__).parents[2]

SHOP = """
from flask import Flask

from wsgi_defer.flask import Defer
from wsgi_defer.jobs import Jobs
from wsgi_defer.jobs.flask import accepted, status_blueprint

app = Flask(__name__)
app.config["WSGI_DEFER_JOBS_URL"] = "sqlite:///jobs.db"
Defer(app)
jobs = Jobs()
jobs.init_app(app)
app.register_blueprint(status_blueprint(jobs), url_prefix="/jobs")


@jobs.handler("mail.welcome", attempts=5, backoff=60)
def welcome(payload):
    print("a mail to", payload["to"])


@app.post("/signup")
def signup():
    return accepted(jobs.enqueue("mail.welcome", {"to": "ada@example.org"}))
"""

FACTORY = """
from flask import Flask, current_app, g

from wsgi_defer import current_scope, defer
from wsgi_defer.flask import Defer
from wsgi_defer.jobs import Jobs

jobs = Jobs()


def create_app():
    app = Flask(__name__)
    app.config["WSGI_DEFER_JOBS_URL"] = "sqlite:///jobs.db"
    Defer(app)
    jobs.init_app(app)
    return app


@jobs.handler("what")
def what(payload):
    g.seen = [*g.get("seen", []), payload]
    return [current_app.name, g.seen]
"""

MORE = """
from shop import jobs

@jobs.handler("more.later")
def later(payload):
    return "later"
"""


def environ():
    return {**os.environ, "PYTHONPATH": str(HOME), "PYTHONUNBUFFERED": "1"}


def python(where, *arguments):
    """Run Python to its end; return what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=where, env=environ(),
        capture_output=True, text=True, timeout=OF_PROCESSES,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(where, *command):
    """Run a command to its end; return what it printed."""
    return python(where, "-m", *command)


@contextmanager
def running(where, *command):
    """A command, which is told to stop in the end, and does."""
    with (where / "output").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=where, env=environ(),
            stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(OF_PROCESSES) == 0, (where / "output").read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def has_printed(where, *texts):
    output = (where / "output").read_text()
    return all(text in output for text in texts)


def wait_for(where, *texts):
    until(
        lambda: has_printed(where, *texts),
        lambda: f"{texts} in {(where / 'output').read_text()}",
        OF_PROCESSES,
    )


POST = "from shop import app; print(app.test_client().post('/signup').json['job_id'])"


def post(where):
    return python(where, "-c", POST).strip()


@pytest.mark.parametrize(
    "command",
    [["flask", "--app", "shop", "jobs"], ["flask", "--app", "shop:app", "jobs"]],
    ids=" ".join,
)
def test_the_command_of_flask(tmp_path, command):
    """The worker, and what is asked about jobs; the URL is from app.config."""
    (tmp_path / "shop.py").write_text(SHOP)
    job_id = post(tmp_path)
    assert job_id in run(tmp_path, *command, "list", "--state", "queued")
    with running(tmp_path, *command, "worker", "--processes", "2"):
        wait_for(tmp_path, "a mail to ada@example.org", f"{job_id} attempt 1: done",
                 f"SQLite keeps the jobs in {tmp_path}/jobs.db")  # fmt: skip
    assert "stopped: 1 done" in (tmp_path / "output").read_text()
    assert run(tmp_path, *command, "count", "--json").count(": 0") == 5
    assert "flask jobs worker [-h]" in run(tmp_path, *command, "worker", "--help")


def test_the_command_of_a_program_that_finds_its_app_by_itself(tmp_path):
    """Flask looks for app.py; and each job has an app context of its own, without the
    scope that Defer(app) has around commands."""
    (tmp_path / "app.py").write_text(FACTORY)
    code = (
        "import app; app.create_app()\n"
        "for n in (1, 2): app.jobs.enqueue('what', n, job_id=f'a{n}')"
    )
    python(tmp_path, "-c", code)
    with running(tmp_path, "flask", "jobs", "worker"):
        wait_for(tmp_path, "a1 attempt 1: done", "a2 attempt 1: done")
    shown = run(tmp_path, "wsgi_defer.jobs", "show", "app:create_app()", "a2")
    assert 'result       ["app", [2]]' in shown


def test_more_modules_with_handlers(tmp_path):
    """In all processes of the worker."""
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "handlers.py").write_text(MORE)
    command = ["worker", "shop:jobs", "--import", "more.handlers"]
    code = "import more.handlers; more.handlers.jobs.enqueue('more.later')"
    python(tmp_path, "-c", code)
    with running(tmp_path, "wsgi_defer.jobs", *command):
        wait_for(tmp_path, "handlers mail.welcome, more.later", "attempt 1: done")


def test_a_worker_that_starts_again_when_a_file_has_changed(tmp_path):
    """Also after one that could not be imported; and it stops when it is told to."""
    shop = tmp_path / "shop.py"
    shop.write_text(SHOP)
    post(tmp_path)
    with running(tmp_path, "wsgi_defer.jobs", "worker", "shop:jobs", "--reload"):
        wait_for(tmp_path, "a mail to ada@example.org")
        shop.write_text(SHOP.replace("a mail to", "1 / 0 #"))
        wait_for(tmp_path, "a file has changed", "stopped: 1 done")
        shop.write_text("1 / 0")
        wait_for(tmp_path, "cannot import shop: ZeroDivisionError")
        shop.write_text(SHOP.replace("a mail to", "another mail to"))
        post(tmp_path)
        wait_for(tmp_path, "another mail to ada@example.org")
    output = (tmp_path / "output").read_text()
    assert output.count("stopped: ") >= 2
    assert "Traceback" not in output


def test_the_process_of_reload_leaves_nothing_behind(tmp_path):
    """When it is stopped, what it has started is gone."""
    (tmp_path / "shop.py").write_text(SHOP)
    with running(tmp_path, "wsgi_defer.jobs", "worker", "shop:jobs", "--reload"):
        wait_for(tmp_path, "queue wsgi_defer; handlers mail.welcome")
    assert processes_in(tmp_path) == []


def processes_in(where):
    """The ids of processes whose current directory that is."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").readlink() == where:
                found.append(entry.name)
        except OSError:
            continue  # it has ended, or is none of ours
    return found
