"""Jobs in Flask: 202 with a URL for the status, and the app context in handlers."""

from __future__ import annotations

import json
from contextlib import nullcontext

import pytest
from flask import Blueprint, Flask, abort, current_app, g

from wsgi_defer import current_scope, defer
from wsgi_defer.flask import Defer
from wsgi_defer.jobs import Jobs, JobsUnavailable, NotSupported
from wsgi_defer.jobs._attempt import Attempt
from wsgi_defer.jobs.flask import accepted, status_blueprint

from ...helpers.sqlite import with_sqlite


@pytest.fixture
def jobs():
    return Jobs(None)


@pytest.fixture
def app(jobs):
    made = Flask(__name__)
    Defer(made)
    jobs.init_app(made)

    @jobs.handler("report.build")
    def build(payload):
        return {"pages": payload["pages"], "app": current_app.name}

    @jobs.handler("report.fails")
    def fails(payload):
        raise ValueError("the password is sesame")

    @made.post("/reports/<name>")
    def reports(name):
        return accepted(jobs.enqueue(f"report.{name}", {"pages": 3}))

    @made.post("/fails")
    def fails_view():
        jobs.enqueue("report.build", {"pages": 3})
        abort(409)

    return made


def test_accepted_without_the_blueprint(app):
    """The status view is off by default; then there is no URL to give."""
    response = app.test_client().post("/reports/build")
    assert response.status_code == 202
    assert response.json == {"job_id": response.json["job_id"], "status_url": None}
    assert "Location" not in response.headers


def test_accepted_with_another_url(app):
    """The app may have its own view for the status."""
    with app.test_request_context():
        response = accepted("abc", status_url="/mine/abc")
    assert response.json == {"job_id": "abc", "status_url": "/mine/abc"}
    assert response.headers["Location"] == "/mine/abc"


@pytest.mark.promise("I5")
def test_from_202_to_the_result(app, jobs):
    """The Location leads to the job, and its result, made in the app's context.

    I5: accepted is not done. The client has the id, and looks later.
    """
    app.register_blueprint(status_blueprint(jobs), url_prefix="/jobs")
    client = app.test_client()
    response = client.post("/reports/build")
    assert response.status_code == 202
    job_id, url = response.json["job_id"], response.json["status_url"]
    assert url == f"/jobs/{job_id}"
    assert response.headers["Location"] == url
    status = client.get(url)
    assert status.status_code == 200
    assert status.headers["Cache-Control"] == "no-store"
    assert status.json["state"] == "done"
    assert status.json["result"] == {"pages": 3, "app": app.name}
    assert status.json["finished_at"].endswith("+00:00")


def test_no_job_for_a_failed_request(app, jobs):
    """abort() in the view, and nothing is kept."""
    assert app.test_client().post("/fails").status_code == 409
    assert jobs.recent() == []


@pytest.mark.parametrize("job_id", ["0" * 32, "a b", "..", "%00", "x" * 500])
def test_unknown_jobs_are_404(app, jobs, job_id):
    """Whatever the path says."""
    app.register_blueprint(status_blueprint(jobs), url_prefix="/jobs")
    assert app.test_client().get(f"/jobs/{job_id}").status_code == 404


def test_the_text_of_errors_is_not_shown(app, jobs):
    """Unless the app says so."""
    app.register_blueprint(status_blueprint(jobs), url_prefix="/jobs")
    shown = status_blueprint(jobs, "for_staff", show_errors=True)
    app.register_blueprint(shown, url_prefix="/staff/jobs")
    client = app.test_client()
    job_id = client.post("/reports/fails").json["job_id"]
    status = client.get(f"/jobs/{job_id}")
    assert status.json["state"] == "failed"
    assert b"sesame" not in status.data
    assert b"sesame" in client.get(f"/staff/jobs/{job_id}").data


def test_blueprints_of_several_jobs(app, jobs):
    """accepted() must be told which of them an id belongs to."""
    app.register_blueprint(status_blueprint(jobs), url_prefix="/jobs")
    app.register_blueprint(status_blueprint(Jobs(None), "others"), url_prefix="/others")
    with app.test_request_context():
        with pytest.raises(RuntimeError, match=r"jobs\.status and others\.status"):
            accepted("abc")
        assert accepted("abc", status_url="/jobs/abc").json["status_url"] == "/jobs/abc"


def test_a_command_stores_at_once(app, jobs):
    """Even if the command fails: the job was promised."""

    @app.cli.command("order")
    def order():
        seen.append(jobs.status(jobs.enqueue("report.build", {"pages": 3})))
        raise SystemExit(3)

    seen = []
    assert app.test_cli_runner().invoke(args=["order"]).exit_code == 3
    assert [job.state for job in seen] == ["queued"]


def test_a_blueprint_inside_another(app, jobs):
    """What guards the outer one guards it, too."""
    outer = Blueprint("api", __name__)
    outer.before_request(lambda: None if app.config.get("OPEN") else ("no", 403))
    outer.register_blueprint(status_blueprint(jobs), url_prefix="/jobs")
    app.register_blueprint(outer, url_prefix="/api")
    client = app.test_client()
    url = client.post("/reports/build").json["status_url"]
    assert url.startswith("/api/jobs/")
    assert client.get(url).status_code == 403
    app.config["OPEN"] = True
    assert client.get(url).status_code == 200


@pytest.mark.parametrize(
    ("error", "status"),
    [(JobsUnavailable("RQ", "status"), 503), (NotSupported("Celery", "tell"), 501)],
)
def test_an_engine_that_cannot_tell(app, jobs, monkeypatch, error, status):
    """503 if it is down, 501 if it keeps no status."""
    app.register_blueprint(status_blueprint(jobs), url_prefix="/jobs")

    def fail(job_id):
        raise error

    monkeypatch.setattr(jobs, "status", fail)
    assert app.test_client().get("/jobs/abc").status_code == status


def test_handlers_have_a_context_with_its_teardown(app, jobs):
    """Each job has a fresh one, also outside a request, as in a worker."""
    ended = []
    app.teardown_appcontext(lambda error: ended.append(g.pop("opened", None)))

    @jobs.handler("opens")
    def opens(payload):
        assert "opened" not in g
        g.opened = payload

    jobs.enqueue("opens", 1)
    jobs.enqueue("opens", 2)
    assert ended == [1, 2]


@pytest.mark.parametrize("extended", [False, True])
def test_what_a_handler_defers_in_a_worker(extended):
    """Each call has an app context of its own, with the options of Defer(app), if there
    is one. What the app's hooks defer or enqueue, they do so for requests."""
    ran, limits = [], []
    jobs, app = Jobs(None), Flask("shop")
    jobs.init_app(app)
    if extended:
        Defer(app, around=lambda: nullcontext(ran.append("around")), max_waiting=1)

    @app.teardown_appcontext
    def teardown(error):
        ran.append(f"teardown of {g.get('who')}")
        defer(ran.append, "of a hook")
        jobs.enqueue("work")

    @jobs.handler("work")
    def work(payload):
        g.who = "handler"
        limits.append(current_scope().options.room)

        def call():
            g.who = current_app.name

        defer(call)
        defer(call)

    Attempt("id", "work", "null", []).run(jobs)
    around = ["around"] * extended
    call = [*around, "teardown of shop"]
    assert ran == ["teardown of handler", *call, *call]
    assert limits == [None]


# ------------------------------------------------------------ configuration, command


@with_sqlite
def test_the_url_is_from_the_configuration(tmp_path):
    """And the other options, if no URL is given to Jobs()."""
    app = Flask(__name__)
    app.config.update(
        WSGI_DEFER_JOBS_URL=f"sqlite:///{tmp_path}/jobs.db",
        WSGI_DEFER_JOBS_QUEUE="shop",
        WSGI_DEFER_JOBS_MAX_PAYLOAD=100,
    )
    jobs = Jobs()
    jobs.engine  # noqa: B018 - the one in memory, which is not used any more
    jobs.init_app(app)
    assert jobs.engine.title == "DBOS on SQLite"
    assert (jobs.queue, jobs.max_payload, jobs.results) == ("shop", 100, None)
    given = Jobs(f"sqlite:///{tmp_path}/other.db", queue="mine")
    given.init_app(app)
    assert "other.db" in given.engine.where()
    assert (given.queue, given.max_payload) == ("mine", 256 * 1024)


def test_a_wrong_url_in_the_configuration():
    """It is refused at once, as one that is given to Jobs()."""
    app = Flask(__name__)
    app.config["WSGI_DEFER_JOBS_URL"] = "nonsense://"
    with pytest.raises(ValueError, match="no job engine has URLs that start"):
        Jobs().init_app(app)


@with_sqlite
def test_the_url_of_the_latest_app(tmp_path):
    """App factories make an app for each test, with a file of its own."""
    jobs = Jobs(max_payload=1000)
    jobs.handler("job")(print)

    def create_app(**config):
        app = Flask(__name__)
        app.config.update(
            {f"WSGI_DEFER_JOBS_{key}": value for key, value in config.items()}
        )
        jobs.init_app(app)
        return jobs.engine

    first, second = (f"sqlite:///{tmp_path}/{each}.db" for each in "ab")
    one = create_app(URL=first, MAX_PAYLOAD=100)
    job_id = jobs.enqueue("job")
    assert create_app(URL=first, MAX_PAYLOAD=100) is one
    assert create_app() is one  # which leaves it to others
    two = create_app(URL=second)
    assert "b.db" in two.where()
    assert (jobs.max_payload, jobs.status(job_id)) == (1000, None)
    assert one._opened is None
    with pytest.raises(ValueError, match="nonsense"):
        create_app(URL="nonsense://")
    assert jobs.engine is two  # as before
    create_app(URL=first)
    assert jobs.status(job_id).state == "queued"
    jobs.engine.close()


def test_the_command_of_jobs(app, jobs):
    """``flask jobs`` is that of ``python -m wsgi_defer.jobs``, without a target."""
    with app.app_context():
        job_id = jobs.enqueue("report.fails")
    ask = app.test_cli_runner().invoke
    result = ask(args=["jobs", "list", "--state", "failed", "--json"])
    assert (result.exit_code, result.exception) == (0, None)
    assert [job["id"] for job in json.loads(result.stdout)] == [job_id]
    result = ask(args=["jobs", "show", "none"])
    assert result.exit_code == 1
    assert "there is no job 'none'" in result.stderr
    result = ask(args=["jobs", "list", "--limit", "none"])
    assert result.exit_code == 2
    assert "See " in result.stderr
    assert " jobs list --help" in result.stderr
    result = ask(args=["jobs", "--help"])
    assert "worker" in result.stdout


def test_an_app_may_have_a_command_of_that_name(jobs):
    """It stays."""
    app = Flask(__name__)
    app.cli.command("jobs")(lambda: print("mine"))
    jobs.init_app(app)
    jobs.init_app(app)
    assert app.test_cli_runner().invoke(args=["jobs"]).stdout == "mine\n"
