"""The Flask extension: contexts, teardown, commands, the test client."""

from __future__ import annotations

import inspect
import io
import os
import sys
import threading
import time
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from types import SimpleNamespace
from unittest.mock import Mock

import click
import flask
import pytest
from click.testing import CliRunner
from flask import Flask, current_app, g, request, session, url_for
from flask.cli import FlaskGroup
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import Mapped, mapped_column
from werkzeug.local import Local, LocalProxy
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

from wsgi_defer import (
    DeferMiddleware,
    NoScopeError,
    Observer,
    TooManyCallsError,
    TooManyWaitingError,
    before_response,
    current_scope,
    defer,
    deferring,
    pool,
)
from wsgi_defer._calls import run
from wsgi_defer._calls.invoke import invoke
from wsgi_defer.flask import MERGED, Defer, Options
from wsgi_defer.jobs import Jobs
from wsgi_defer.pools import AsyncPool, ThreadPool

from ..helpers.waiting import PATIENCE, until


@pytest.fixture
def app():
    app = Flask("shop")
    app.secret_key = "x"
    app.testing = True
    Defer(app)
    return app


@pytest.fixture
def client(app):
    return app.test_client()


def test_init_app(app):
    """Both forms work, once for each app."""
    defer_extension = Defer(max_calls=5)
    other = Flask("other")
    defer_extension.init_app(other)
    assert other.extensions["wsgi_defer"] is defer_extension
    assert other.wsgi_app.options.max_calls == 5
    with pytest.raises(RuntimeError, match="already set up for the app 'shop'"):
        Defer(app)


# What a call gets in these tests, and what the log says of it.
IN_A_SESSION = "User, which belongs to a database session of the request"
PROXIES = {
    "request": "Request, by a proxy that outlives the request",
    "g": "_AppCtxGlobals, by a proxy that outlives the request",
    "app": None,
    "user": IN_A_SESSION,
    "nobody": "LocalProxy, by a proxy",
}


def warnings_in(caplog):
    """Those of arguments, without the line."""
    return [
        record.getMessage()
        for record in caplog.records
        if "has an argument of type" in record.getMessage()
    ]


@pytest.fixture
def users(app):
    """The model, and a user that the database knows, for the time of a request."""
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    db = SQLAlchemy(app)

    class User(db.Model):  # type: ignore[name-defined]
        id: Mapped[int] = mapped_column(primary_key=True)
        welcomed: Mapped[bool] = mapped_column(default=False)

        def welcome(self):
            self.welcomed = True
            db.session.commit()

    with app.app_context():
        db.create_all()
        db.session.add(User(id=4711))
        db.session.commit()
    yield SimpleNamespace(User=User, db=db, get=lambda: db.session.get(User, 4711))
    with app.app_context():
        db.engine.dispose()


def welcome(user):
    user.welcome()


@pytest.mark.parametrize("by_id", [False, True])
def test_an_object_of_a_database_session(app, client, users, caplog, by_id):
    """What a call writes to it is lost, and the log says so, once for each line. With
    its id there is nothing to say."""

    def welcome_by_id(user_id):
        users.db.session.get(users.User, user_id).welcome()

    @app.get("/")
    def view():
        user = users.get()
        if by_id:
            defer(welcome_by_id, user.id)
        else:
            defer(welcome, user)
        return "ok"

    client.get("/")
    client.get("/")
    with app.app_context():
        assert users.get().welcomed is by_id
    if by_id:
        assert warnings_in(caplog) == []
    else:
        (warning,) = warnings_in(caplog)
        assert warning.startswith(
            "deferred call tests.unit.test_flask.welcome has an argument of type "
            + IN_A_SESSION
        )
        assert "pass its id, and load it in the call; from " in warning
        assert "4711" not in warning


@pytest.mark.parametrize(
    "register",
    [
        lambda user: defer(user.welcome),
        lambda user: defer(partial(partial(print, user), end="")),
        lambda user: defer(partial(print), sep=user),
        lambda user: defer(print, [1, user]),
        lambda user: defer(print, {1: user}),
        lambda user: defer(int).then(partial(print, user)),
        lambda user: before_response(type, user),
    ],
)
def test_wherever_the_object_is(app, client, users, caplog, register):
    """A method's, a partial's, in a list or a dict, in a chain."""

    @app.get("/")
    def view():
        register(users.get())
        return "ok"

    client.get("/")
    (warning,) = warnings_in(caplog)
    assert IN_A_SESSION in warning


@pytest.mark.parametrize(("name", "said"), PROXIES.items())
def test_a_proxy(app, client, users, caplog, name, said):
    """By the type of what it stands for."""

    @app.get("/")
    def view():
        proxies = {
            "request": request, "g": g, "app": current_app,
            "user": LocalProxy(users.get), "nobody": Local()("nobody"),
        }  # fmt: skip
        defer(type, proxies[name])
        return "ok"

    client.get("/")
    assert len(warnings_in(caplog)) == (said is not None)
    assert (said or "") in caplog.text


@pytest.mark.parametrize(
    ("option", "setting", "warns"),
    [
        (None, "testing", True), (None, "debug", True), (None, None, False),
        (True, None, True), (False, "testing", False),
    ],
)  # fmt: skip
def test_when_arguments_are_checked(caplog, option, setting, warns):
    """In tests and when debugging, or as the option says; otherwise nothing hears of a
    call, and its price is the same."""

    class Other(Observer):
        def started(self, call, scope):
            heard.append(call.label)

    heard, listeners = [], []
    app = Flask("shop")
    Defer(app, check_arguments=option, observers=iter([Other()]), max_waiting=1)
    wrapped = app.wsgi_app.app
    if setting:
        setattr(app, setting, True)  # after that

    @app.get("/")
    def view():
        listeners.append(current_scope().options.observers.queued)
        defer(type, request)
        with pytest.raises(TooManyWaitingError):
            defer(int)
        return "ok"

    for _ in range(2):
        app.test_client().get("/")
    assert len(warnings_in(caplog)) == warns
    assert [len(heard_by) for heard_by in listeners] == [warns, warns]
    assert heard == ["builtins.type"] * 2
    assert (app.wsgi_app.app is wrapped) == (option is False)


def test_a_middleware_around_the_app_keeps_its_options(app, caplog):
    """They are not ours to change."""

    @app.get("/")
    def view():
        defer(type, request)
        return "ok"

    outer = DeferMiddleware(app.wsgi_app)
    Client(outer).get("/").close()
    assert outer.options.observers.queued == ()
    assert warnings_in(caplog) == []


def test_arguments_in_a_command(app, users, caplog):
    """As in a view."""

    @app.cli.command("send")
    def send():
        defer(type, users.get())

    assert app.test_cli_runner().invoke(args=["send"]).exit_code == 0
    (warning,) = warnings_in(caplog)
    assert IN_A_SESSION in warning


def test_arguments_that_are_none_of_its_business(app, client, monkeypatch, caplog):
    """Objects of any kind, and an app that uses no SQLAlchemy."""

    class Touchy:
        def __getattr__(self, name):
            raise ValueError(name)

    def register():
        defer(type, Touchy())
        defer(type, Mock())
        return "ok"

    app.add_url_rule("/", view_func=register)
    client.get("/")
    monkeypatch.delitem(sys.modules, "sqlalchemy.orm.state")
    monkeypatch.delitem(sys.modules, "werkzeug.local")
    client.get("/")
    assert "sqlalchemy.orm.state" not in sys.modules
    assert caplog.text == ""


def test_its_options_are_known_to_type_checkers():
    """All that the middleware has."""
    known = set(inspect.signature(DeferMiddleware).parameters)
    assert set(Options.__annotations__) == known - {"app"}


@pytest.mark.promise("X6")
def test_everything_of_flask_works_inside_a_call(app, client, ran):
    """request, session, g, current_app and url_for are as in the view."""

    def call(number):
        ran.append((request.path, request.args["q"], request.form["f"]))
        ran.append((session["user"], g.user, g.count, current_app.name))
        ran.append(url_for("view", number=number))
        g.count += 1
        session["user"] = "not saved"

    @app.post("/orders/<int:number>")
    def view(number):
        session["user"] = "ada"
        g.user, g.count = "ada", len(request.form)  # which reads the body
        defer(call, number)
        defer(lambda: ran.append((g.count, request.view_args)))
        return "ok"

    response = client.post("/orders/7?q=1", data={"f": "2"})
    assert response.text == "ok"
    assert ran == [
        ("/orders/7", "1", "2"),
        ("ada", "ada", 1, "shop"),
        "/orders/7",
        (1, {"number": 7}),
    ]
    with client.session_transaction() as saved:
        assert saved["user"] == "ada"


@pytest.mark.skipif(not MERGED, reason="this Flask has two contexts")
def test_the_one_context_of_flask_3_2(app, client, ran):
    """Is a copy for each call, with g and the request; its teardown functions get what
    they get of two contexts."""
    app.teardown_request(lambda error: ran.append(("request", error)))
    app.teardown_appcontext(lambda error: ran.append(("app", type(error))))
    contexts = []

    def call():
        contexts.append(flask.globals.app_ctx._get_current_object())
        ran.append((g.user, request.path, session["user"], current_app.name))
        raise LookupError

    @app.get("/")
    def view():
        contexts.append(flask.globals.app_ctx._get_current_object())
        g.user = session["user"] = "ada"
        defer(call)
        return "ok"

    client.get("/")
    assert ran == [
        ("request", None), ("app", type(None)),
        ("ada", "/", "ada", "shop"), ("request", None), ("app", LookupError),
    ]  # fmt: skip
    assert len(set(map(id, contexts))) == 2
    assert not any(context._cv_token for context in contexts)


def test_the_client_has_its_response_first(app, ran):
    """On the wire of WSGI: the calls run when the body is closed, not before."""

    @app.get("/")
    def view():
        defer(ran.append, 1)
        return "ok"

    body = app(
        {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "SERVER_NAME": "x",
         "SERVER_PORT": "80", "wsgi.url_scheme": "http"},
        lambda status, headers: None,
    )  # fmt: skip
    assert list(body) == [b"ok"]
    assert ran == []
    body.close()
    assert ran == [1]


@pytest.mark.promise("S10", "X6")
def test_teardown_runs_after_each_call(app, client, ran):
    """Of the app context with the call's exception, and of the request, which has not
    failed, without."""

    @app.teardown_request
    def teardown_request(error):
        ran.append(("request", type(error)))

    @app.teardown_appcontext
    def teardown_appcontext(error):
        ran.append(("app", type(error)))

    @app.get("/")
    def view():
        defer(ran.append, 1)
        defer(lambda: 1 / 0)
        return "ok"

    client.get("/")
    none, zero = type(None), ZeroDivisionError
    assert ran == [
        ("request", none), ("app", none),
        1, ("request", none), ("app", none),
        ("request", none), ("app", zero),
    ]  # fmt: skip


def on_teardown_request(app, hook):
    app.teardown_request(lambda error: hook())


def on_teardown_appcontext(app, hook):
    app.teardown_appcontext(lambda error: hook())


def on_signals(app, hook):
    def receive(sender, **kwargs):
        hook()

    app.keep_receiver_alive = receive
    flask.request_tearing_down.connect(receive, app)
    flask.appcontext_tearing_down.connect(receive, app)
    flask.appcontext_pushed.connect(receive, app)


PLACES = pytest.mark.parametrize(
    ("register", "times"),
    [(on_teardown_request, 1), (on_teardown_appcontext, 1), (on_signals, 3)],
)


@PLACES
@pytest.mark.parametrize("held", [False, True])
def test_hooks_that_defer_do_so_for_the_request_only(
    app, client, ran, caplog, register, times, held
):
    """Not again around each of its calls, without end; nor around their own."""
    caplog.set_level("DEBUG", "wsgi_defer")

    def hook():
        if held:
            before_response(ran.append, "hook")
            assert current_scope().answers
        else:
            assert defer(ran.append, "hook").then(ran.append)

    register(app, hook)

    @app.get("/")
    def view():
        defer(ran.append, "view")
        defer(divmod, 1, 0)
        return "ok"

    client.get("/")
    assert ran.count("view") == 1
    assert ran.count("hook") == times
    assert "a hook of the app registered it around a call" in caplog.text
    assert "TooManyCalls" not in caplog.text


@PLACES
def test_hooks_that_enqueue_do_so_for_the_request_only(
    app, client, ran, register, times
):
    """A job for each request, and none for each call."""
    jobs = Jobs(None)
    jobs.handler("count")(ran.append)
    register(app, lambda: jobs.enqueue("count", "hook"))

    @app.get("/")
    def view():
        defer(ran.append, "view")
        return "ok"

    with jobs.captured() as captured:
        client.get("/")
    assert len(captured) == times
    client.get("/")
    assert ran.count("hook") == times


def test_a_hook_that_needs_what_it_defers(ran):
    """It gets the result, also that of a pool's task, each time, and once for each."""
    app = Flask("shop")
    Defer(app, pools=POOLS)

    @app.teardown_appcontext
    def hook(error):
        assert defer(divmod, 7, 2).result() == (3, 1)
        assert pool("threads").submit(divmod, 7, 2).result(PATIENCE) == (3, 1)
        ran.append("hook")

    @app.get("/")
    def view():
        defer(ran.append, "call")
        return "ok"

    app.test_client().get("/")
    # Of the call and the task of the request's own hook, of the request, of the call.
    assert ran == ["hook", "hook", "hook", "call", "hook"]


def test_waiting_calls_are_not_dropped_for_those_of_hooks(ran):
    """What a hook defers around a call does not count, and nobody hears of it."""
    app = Flask("shop")
    heard = []

    class Other(Observer):
        def queued(self, call, scope):
            heard.append(call.label)

    Defer(app, max_waiting=3, when_full="drop", observers=[Other()])
    app.teardown_request(lambda error: defer(ran.append, "hook"))

    @app.get("/")
    def view():
        defer(ran.append, 1)
        defer(ran.append, 2)
        return "ok"

    app.test_client().get("/")
    assert ran == [1, 2, "hook"]
    assert len(heard) == 3


def test_a_failed_call_is_not_a_failed_request(app, client, ran):
    """For what counts those in a teardown function, as exporters of metrics do."""
    failed = []
    app.teardown_request(lambda error: error and failed.append(error))

    @app.get("/")
    def view():
        defer(divmod, 1, 0)
        return "ok"

    client.get("/")
    assert failed == []


HOOKS = {
    "none": lambda app: None,
    "request": lambda app: app.teardown_request(lambda error: None),
    "appcontext": lambda app: app.teardown_appcontext(lambda error: None),
    "both": lambda app: flask.appcontext_popped.connect(app.receiver, app),
}


@pytest.mark.parametrize("hook", HOOKS)
def test_what_has_no_teardown_calls_no_methods_for_it(monkeypatch, ran, hook):
    """A tracer that has patched them would make a span of each, of its own."""
    called = []
    for method in ("do_teardown_request", "do_teardown_appcontext"):
        known = getattr(Flask, method)

        def traced(self, *args, known=known, method=method):
            called.append(method.removeprefix("do_teardown_"))
            known(self, *args)

        monkeypatch.setattr(Flask, method, traced)
    app = Flask("shop")
    app.receiver = lambda sender: None
    HOOKS[hook](app)
    Defer(app)

    @app.get("/")
    def view():
        defer(lambda: defer(ran.append, request.path))
        return "ok"

    app.test_client().get("/")
    assert ran == ["/"]
    expected = {"none": [], "both": ["request", "appcontext"]}.get(hook, [hook])
    assert called == ["request", "appcontext"] + expected * 2
    assert not flask.has_app_context()


def test_an_app_with_a_teardown_of_its_own(ran):
    """Its class overrides Flask's method, which is called."""

    class App(Flask):
        def do_teardown_appcontext(self, *args):
            ran.append("teardown")
            super().do_teardown_appcontext(*args)

    app = App("shop")
    Defer(app)

    @app.get("/")
    def view():
        defer(ran.append, "call")
        return "ok"

    app.test_client().get("/")
    assert ran == ["teardown", "call", "teardown"]


def test_files_that_a_call_is_the_first_to_read(app, ran):
    """Are closed when it ends."""

    @app.post("/")
    def view():
        request.get_data()  # while it is there
        defer(lambda: ran.append(request.files["file"]))
        return "ok"

    app.test_client().post("/", data={"file": (io.BytesIO(b"uploaded"), "name")})
    assert ran[0].closed


def make_mounted(extended, plain=False, **options):
    """An app in another, whose calls tell where they run; ``extended`` are the names of
    those with the extension."""
    apps = {}
    for name in ("inner", "outer"):
        app = apps[name] = Flask(name)
        app.torn_down = []
        app.teardown_appcontext(lambda error, app=app: app.torn_down.append(app.name))

        def view(name=name):
            g.name = name
            defer(lambda: apps["seen"].append((current_app.name, g.name)))
            return name

        app.add_url_rule("/", view_func=view)
    outer, inner = apps["outer"], apps["inner"]
    outer.wsgi_app = DispatcherMiddleware(outer.wsgi_app, {"/inner": inner})
    for name in extended:
        Defer(apps[name], **options.get(name, {}))
    apps["seen"] = []
    return Client(DeferMiddleware(outer) if plain else outer), apps


@pytest.mark.parametrize(
    ("extended", "plain"),
    [(["outer", "inner"], False), (["outer"], False), (["inner"], True),
     (["outer", "inner"], True)],
)  # fmt: skip
def test_each_call_has_the_contexts_of_its_app(extended, plain, caplog):
    """The app that deferred it, whichever it is mounted in."""
    client, apps = make_mounted(extended, plain)
    for name in ("inner", extended[0]):
        root = "/inner" if name == "inner" else ""
        assert client.get(f"{root}/", buffered=True).text == name
        assert apps["seen"].pop() == (name, name)
        assert apps[name].torn_down[-2:] == [name] * 2
    assert caplog.text == ""


def test_each_call_has_what_its_app_has_around(ran):
    """The same for ``around``."""

    def around(name):
        return lambda: nullcontext(ran.append((name, current_app.name)))

    client, _ = make_mounted(
        ["outer", "inner"],
        outer={"around": around("outer")},
        inner={"around": around("inner")},
    )
    client.get("/inner/", buffered=True)
    client.get("/", buffered=True)
    assert ran == [("inner", "inner"), ("outer", "outer")]


def test_each_call_has_the_time_limit_of_its_app(ran, monkeypatch):
    """Not that of the app around it, unless it has none."""

    def run_watched(invocation, call, owner, limit):
        ran.append(limit)
        return invoke(invocation, owner.options.around)

    monkeypatch.setattr(run, "run_watched", run_watched)
    limits = {"outer": {"time_limit": 50}, "inner": {"time_limit": 5}}
    for inner in (limits["inner"], {}):
        client, _ = make_mounted(["outer", "inner"], outer=limits["outer"], inner=inner)
        client.get("/inner/", buffered=True)
        client.get("/", buffered=True)
    client, _ = make_mounted(["inner"], plain=True, inner=limits["inner"])
    client.get("/inner/", buffered=True)
    client.get("/", buffered=True)
    assert ran == [5, 50, 50, 50, 5]


def test_the_time_limit_of_what_no_app_has_deferred(monkeypatch):
    """Is that of the middleware."""
    app = Flask("shop")
    wsgi_app = app.wsgi_app
    app.wsgi_app = lambda *args: defer(int).always() and wsgi_app(*args)
    Defer(app, time_limit=50)
    seen = []
    monkeypatch.setattr(run, "run_watched", lambda *args: seen.append(args[-1]))
    Client(app).get("/", buffered=True)
    assert seen == [50]


def test_around_inside_the_contexts_of_a_call(ran):
    """It has g and the request; what it opens is closed before their teardown; and what
    it defers is a call like others."""

    @contextmanager
    def around():
        g.connection = f"open for {request.path}"
        yield
        ran.append("around ends")
        if "followed up" not in ran:
            defer(ran.append, "followed up").named("follow-up")

    app = Flask("shop")
    Defer(app, around=around)
    app.teardown_appcontext(lambda error: ran.append("teardown"))

    @app.get("/")
    def view():
        defer(lambda: ran.append(g.connection))
        return "ok"

    app.test_client().get("/")
    assert ran == [
        "teardown",
        "open for /", "around ends", "teardown",
        "followed up", "around ends", "teardown",
    ]  # fmt: skip


def test_around_a_call_that_fails(ran, caplog):
    """It may handle the error; otherwise the teardown gets it."""
    app = Flask("shop")
    Defer(app, around=lambda: suppress(LookupError))
    app.teardown_appcontext(lambda error: ran.append(type(error)))

    @app.get("/")
    def view():
        defer(dict.__getitem__, {}, "x")
        defer(divmod, 1, 0)
        return "ok"

    app.test_client().get("/")
    none = type(None)
    assert ran == [none, none, ZeroDivisionError]
    assert "KeyError" not in caplog.text


def test_around_a_command(ran):
    """As around a call of a view."""
    app = Flask("shop")
    Defer(app, around=lambda: nullcontext(ran.append("around")))
    app.cli.command("work")(lambda: defer(ran.append, "call"))
    assert app.test_cli_runner().invoke(args=["work"]).exit_code == 0
    assert ran == ["around", "call"]


def test_around_must_make_context_managers():
    """Refused when the extension is set up."""
    with pytest.raises(TypeError, match="around must return a context manager"):
        Defer(Flask("shop"), around=nullcontext())


@pytest.mark.parametrize("wrap", [
    DeferMiddleware,
    lambda app: setattr(app, "wsgi_app", DeferMiddleware(app.wsgi_app)) or app,
    lambda app: DeferMiddleware(DispatcherMiddleware(app, {})),
])  # fmt: skip
def test_a_flask_app_without_the_extension(caplog, ran, wrap):
    """The log says once what to write."""
    app = Flask("shop")

    @app.get("/")
    def view():
        if request.args:
            defer(ran.append, 1)
            defer(ran.append, 2)
        return "ok"

    client = Client(wrap(app))
    client.get("/", buffered=True)
    assert caplog.text == ""
    for _ in range(2):
        client.get("/?defer=1", buffered=True)
    assert ran == [1, 2] * 2
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert "Flask app 'shop'" in record.getMessage()
    assert "write Defer(app)" in record.getMessage()


def test_what_is_around_calls_of_a_flask_app_is_somebodys_choice(caplog, monkeypatch):
    """So the log says nothing; nor of calls that were deferred in no app of Flask's."""
    app = Flask("shop")
    app.add_url_rule("/", view_func=lambda: defer(int) and "ok")
    Client(DeferMiddleware(app, around=app.app_context)).get("/", buffered=True)

    def other(environ, start_response):
        defer(int)
        return Flask("other")(environ, start_response)

    Client(DeferMiddleware(other)).get("/", buffered=True)
    monkeypatch.setitem(sys.modules, "flask.globals", None)  # an older Flask
    Client(DeferMiddleware(other)).get("/", buffered=True)
    monkeypatch.delitem(sys.modules, "flask.globals")
    Client(DeferMiddleware(other)).get("/", buffered=True)
    assert caplog.text == ""


def test_a_teardown_that_raises(app, client, ran, caplog):
    """Is a failure of the call; the contexts are left all the same."""

    @app.teardown_request
    def teardown(error):
        if ran:
            raise LookupError("of teardown")

    app.teardown_appcontext(lambda error: ran.append(type(error)))

    @app.get("/")
    def view():
        defer(lambda: ran.append(current_app.name))
        return "ok"

    client.get("/")
    # Flask 3.2 goes on with the exception of the call.
    last = type(None) if MERGED else LookupError
    assert ran == [type(None), "shop", last]
    assert "LookupError: of teardown" in caplog.text
    assert not flask.has_app_context()


def test_what_teardown_closed_is_not_in_g(app, client, ran):
    """Flask's own pattern for databases, which leaves a closed one behind, works."""

    class Database:
        open = True

        def close(self):
            self.open = False

    def get_db():
        db = getattr(g, "_database", None)
        if db is None:
            db = g._database = Database()
        return db

    @app.teardown_appcontext
    def close_connection(error):
        db = getattr(g, "_database", None)
        if db is not None:
            db.close()

    @app.get("/")
    def view():
        get_db()
        defer(lambda: ran.append(get_db().open))
        defer(lambda: ran.append(get_db().open))
        return "ok"

    client.get("/")
    assert ran == [True, True]


def test_flask_sqlalchemy(app, client, ran):
    """Each call has a fresh session, which is removed after it."""
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    db = SQLAlchemy(app)

    class User(db.Model):  # type: ignore[name-defined]
        id: Mapped[int] = mapped_column(primary_key=True)

    sessions = []

    def call():
        sessions.append(db.session())
        ran.append(User.query.count())
        db.session.add(User())  # not committed, so gone with the session

    @app.get("/")
    def view():
        db.session.add(User())
        db.session.commit()
        sessions.append(db.session())
        defer(call)
        defer(call)
        return "ok"

    with app.app_context():
        db.create_all()
    client.get("/")
    assert ran == [1, 1]
    assert len({id(session) for session in sessions}) == 3
    assert not any(session.in_transaction() for session in sessions)
    with app.app_context():
        db.engine.dispose()


def test_streaming(app, client, ran):
    """A generator of stream_with_context defers, too."""

    @app.get("/")
    def view():
        def generate():
            yield "-"
            for number in range(3):
                defer(lambda number=number: ran.append((number, request.path)))
                yield str(number)

        return flask.stream_with_context(generate())

    with client.get("/") as response:
        assert response.text == "-012"
        assert ran == []
    assert ran == [(0, "/"), (1, "/"), (2, "/")]


def test_send_file(app, client, ran, tmp_path):
    """A file, which Werkzeug hands to the server without a callback of its own."""
    path = tmp_path / "file"
    path.write_bytes(b"file")

    @app.get("/")
    def view():
        defer(ran.append, 1)
        return flask.send_file(path)

    assert client.get("/").data == b"file"
    assert ran == [1]


@pytest.mark.promise("L4", "S8")
def test_errors(app, client, ran):
    """The status after the error handlers decides."""
    app.testing = False

    @app.get("/<int:status>")
    def view(status):
        defer(ran.append, f"{status} plain")
        defer(ran.append, f"{status} failure").on_failure()
        if status == 500:
            raise LookupError
        flask.abort(status)

    @app.errorhandler(404)
    def not_found(error):
        return "found after all", 200

    assert [client.get(f"/{status}").status_code for status in (403, 404, 500)] == [
        403, 200, 500,
    ]  # fmt: skip
    assert ran == ["403 failure", "404 plain", "500 failure"]


@pytest.mark.promise("S9")
def test_a_response_that_others_make(app, client, ran):
    """The calls belong to the request, so no response takes its place without them."""

    @app.before_request
    def before():
        defer(ran.append, "before")

    @app.get("/")
    def view():
        defer(ran.append, "view")
        response = flask.Response("the view's")
        response.call_on_close(lambda: ran.append("its own"))
        return response

    @app.after_request
    def replace(response):
        defer(ran.append, "after")
        response.close()
        return flask.Response("another one")

    assert client.get("/").text == "another one"
    assert ran == ["its own", "before", "view", "after"]


def test_errors_that_propagate(app, client, ran):
    """In testing, the client raises; the calls have run by then."""

    @app.get("/")
    def view():
        defer(lambda: ran.append(request.path)).always()
        raise LookupError

    with pytest.raises(LookupError):
        client.get("/")
    assert ran == ["/"]


def test_before_response(app, client, ran):
    """Held calls have the request context as well, and turn into a 503."""

    @app.get("/")
    def view():
        before_response(lambda: ran.append(request.path))
        before_response(lambda: 1 / int(request.args["n"]))
        return "ok"

    assert client.get("/?n=1").status_code == 200
    response = client.get("/?n=0")
    assert (response.status_code, response.data) == (503, b"Service Unavailable\n")
    assert ran == ["/", "/"]


def test_client_redirects(app, client, ran):
    """The calls of each response on the way run in turn."""

    @app.get("/")
    def start():
        defer(ran.append, "first")
        return flask.redirect("/end")

    @app.get("/end")
    def end():
        ran.append("second begins")
        defer(ran.append, "second")
        return "end"

    assert client.get("/", follow_redirects=True).text == "end"
    assert ran == ["first", "second begins", "second"]


def test_client_context(app, client, ran):
    """A with block of the client still keeps the request context for the test."""

    @app.get("/")
    def view():
        g.left = "by the view"
        defer(lambda: ran.append(g.left))
        return "ok"

    with client:
        client.get("/")
        assert request.path == "/"
        assert g.left == "by the view"
    assert ran == ["by the view"]


def test_client_without_calls_is_left_alone(app, client):
    """A response with nothing deferred is not read for the test."""
    steps = []

    @app.get("/")
    def view():
        def generate():
            steps.append(1)
            yield "1"
            steps.append(2)
            yield "2"

        return generate()

    response = client.get("/")
    assert steps == [1]
    assert response.text == "12"
    assert type(client) is flask.testing.FlaskClient
    assert client.application is app


def test_deferred_where_no_context_is_left(app, client, ran):
    """By a plain generator, by call_on_close, and around the app: an app context."""

    @app.get("/")
    def view():
        def generate():
            yield "1"
            defer(lambda: ran.append(current_app.name))
            yield "2"

        response = flask.Response(generate())
        response.call_on_close(lambda: defer(lambda: ran.append(current_app.name)))
        return response

    def between(environ, start_response):
        defer(lambda: ran.append("between"))
        return app(environ, start_response)

    client.get("/", buffered=True)
    Client(DeferMiddleware(between)).get("/", buffered=True)
    assert ran == ["shop", "shop", "between", "shop", "shop"]


def test_a_body_that_raises_in_the_client(app, client, ran):
    """The calls have run when the client raises."""

    @app.get("/")
    def view():
        def generate():
            yield "1"
            raise LookupError

        defer(lambda: (time.sleep(0.02), ran.append(1))).always()
        return flask.Response(generate())

    with pytest.raises(LookupError):
        client.get("/")
    assert ran == [1]


def test_async_calls(app, client, ran):
    """A coroutine function has the request, too."""

    async def call():
        ran.append(request.path)

    @app.get("/")
    def view():
        defer(call)
        return "ok"

    client.get("/")
    assert ran == ["/"]


def test_middleware_around_the_app(app, ran):
    """Wrapped once more from outside, calls still have their request."""

    @app.get("/")
    def view():
        defer(lambda: ran.append(request.path))
        return "ok"

    @app.teardown_request
    def teardown(error):
        ran.append("teardown")

    Client(DeferMiddleware(app)).get("/", buffered=True)
    assert ran == ["teardown", "/", "teardown"]


@pytest.fixture
def commands(app, ran):
    """Commands that end in every way."""

    @app.cli.command("greet")
    @click.option("--fail", is_flag=True)
    @click.option("--exit", "code", type=int)
    def greet(fail, code):
        defer(lambda: ran.append((current_app.name, flask.has_request_context())))
        defer(ran.append, "failure").on_failure()
        ran.append("command")
        if fail:
            raise click.ClickException("failed")
        if code is not None:
            click.get_current_context().exit(code)

    group = flask.cli.AppGroup("user")
    app.cli.add_command(group)

    @group.command("add")
    def add():
        defer(ran.append, "added")

    return app


@pytest.mark.promise("L18")
@pytest.mark.parametrize(
    ("args", "code", "expected"),
    [
        (["greet"], 0, ["command", ("shop", False)]),
        (["greet", "--exit", "0"], 0, ["command", ("shop", False)]),
        (["greet", "--exit", "3"], 3, ["command", "failure"]),
        (["greet", "--fail"], 1, ["command", "failure"]),
        (["user", "add"], 0, ["added"]),
        (["greet", "--help"], 0, []),
        (["unknown"], 2, []),
    ],
)
def test_commands(commands, ran, args, code, expected):
    """The calls of a command run when it succeeded."""
    result = commands.test_cli_runner().invoke(args=args)
    assert result.exit_code == code, result.output
    assert ran == expected
    assert current_scope() is None


def test_commands_of_the_flask_program(commands, ran):
    """The same through `flask`, which finds the app by itself."""
    group = FlaskGroup(create_app=lambda: commands)
    result = CliRunner().invoke(group, ["greet"])
    assert result.exit_code == 0, result.output
    assert ran == ["command", ("shop", False)]


def test_commands_have_contexts_of_their_own(ran):
    """Each call of a command has an app context with teardown, and the limit counts."""
    app = Flask("shop")
    Defer(app, max_calls=2)

    @app.teardown_appcontext
    def teardown(error):
        ran.append("teardown")

    @app.cli.command("work")
    def work():
        defer(ran.append, 1)
        defer(ran.append, 2)
        with pytest.raises(TooManyCallsError):
            defer(ran.append, 3)

    result = app.test_cli_runner().invoke(args=["work"])
    assert result.exit_code == 0, result.output
    assert ran == ["teardown", 1, "teardown", 2, "teardown"]


def test_a_command_without_context(app, ran):
    """Its calls have an app context all the same."""

    @app.cli.command("bare", with_appcontext=False)
    def bare():
        defer(lambda: ran.append(current_app.name))

    assert app.test_cli_runner().invoke(args=["bare"]).exit_code == 0
    assert ran == ["shop"]


def test_a_command_inside_another_scope(commands, ran):
    """A scope that is open already is used."""
    with deferring():
        commands.test_cli_runner().invoke(args=["user", "add"])
        assert ran == []
    assert ran == ["added"]


def test_outside_a_request(app):
    """An app context alone is no request."""
    with app.app_context(), pytest.raises(NoScopeError):
        defer(int)
    with app.test_request_context(), pytest.raises(NoScopeError):
        defer(int)


# Jobs of pools

POOLS = {"threads": ThreadPool(4, max_wait=20), "io": AsyncPool(4, max_wait=20)}


async def in_coroutine(function, *args):
    """The same, on a loop."""
    return function(*args)


def submit(name, function, *args):
    """Run a plain function on a pool of either kind."""
    if name == "io":
        return pool(name).submit(in_coroutine, function, *args)
    return pool(name).submit(function, *args)


@pytest.fixture
def torn_down():
    """What has had its teardown."""
    return []


@pytest.fixture
def pool_app(torn_down):
    app = Flask("pools")
    app.secret_key = "x"
    app.testing = True
    Defer(app, pools=POOLS)

    @app.teardown_appcontext
    def tear_down(error):
        torn_down.append(g.get("who"))

    return app


KINDS = pytest.mark.parametrize("name", ["threads", "io"])


@pytest.mark.promise("X6")
@KINDS
def test_a_job_has_an_app_context_of_its_own(pool_app, torn_down, name):
    """A copy of g, the request of the view, and a teardown before its result."""

    def job(who):
        before, g.who = g.who, who
        return before, request.args["q"], current_app.name

    @pool_app.get("/")
    def view():
        g.who, g.thing = "view", open(os.devnull)  # noqa: SIM115
        with g.thing:
            assert not submit(name, hasattr, g, "thing").result()
        assert torn_down.pop() == "view"
        assert submit(name, job, "job").result() == ("view", "1", "pools")
        assert torn_down == ["job"]
        return g.who

    assert pool_app.test_client().get("/?q=1").text == "view"
    assert torn_down == ["job", "view"]


def test_a_job_leaves_the_request_to_its_view(pool_app, ran):
    """Its end closes no uploaded file, and what the view has changed stays."""
    pool_app.teardown_request(lambda error: ran.append("teardown_request"))

    @pool_app.post("/<int:number>")
    def view(number):
        request.view_args.clear()
        file = request.files["file"]
        assert pool("threads").submit(file.read, 2).result() == b"up"
        assert (request.view_args, ran) == ({}, [])
        return file.read()

    data = {"file": (io.BytesIO(b"uploaded"), "name")}
    assert pool_app.test_client().post("/7", data=data).text == "loaded"
    assert ran == ["teardown_request"]


@pytest.fixture
def database(pool_app, tmp_path):
    """A database with one table, and its class."""
    pool_app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{tmp_path}/db"
    db = SQLAlchemy(pool_app)

    class User(db.Model):  # type: ignore[name-defined]
        id: Mapped[int] = mapped_column(primary_key=True)

    with pool_app.app_context():
        db.create_all()
        engine = db.engine
    yield db, User
    engine.dispose()  # from 3.13 on, SQLite warns of connections that are left open


@KINDS
def test_flask_sqlalchemy_in_jobs(pool_app, database, name):
    """Each job has a session of its own, which sees nothing of the view's."""
    db, user = database
    sessions = []

    def job():
        sessions.append(db.session())
        db.session.add(user())  # not committed, so gone with the session

    @pool_app.get("/")
    def view():
        sessions.append(db.session())
        for future in [submit(name, job) for _ in range(3)]:
            future.result()
        return str(len(db.session.new))

    assert pool_app.test_client().get("/").text == "0"
    assert len({id(session) for session in sessions}) == 4
    assert not db.session.registry.registry


def test_flask_sqlalchemy_in_an_abandoned_job(pool_app, database):
    """What it leaves in its session, nobody finds."""
    db, user = database
    released, ended = threading.Event(), threading.Event()

    def job():
        released.wait(20)
        db.session.add(user())
        ended.set()

    @pool_app.get("/")
    def view():
        future = pool("threads").submit(job)
        until(future.running)
        return "ok"

    assert pool_app.test_client().get("/").text == "ok"
    released.set()
    assert ended.wait(20)
    until(lambda: not db.session.registry.registry)


def test_around_a_job_that_fails(ran):
    """What is around calls is around jobs; its error is the job's."""

    @contextmanager
    def around():
        ran.append("begin")
        try:
            yield
        finally:
            ran.append("end")
        raise LookupError("of around")

    with deferring(around=around, pools=POOLS):
        for name in POOLS:
            with pytest.raises(LookupError, match="of around"):
                submit(name, ran.append, name).result()
            with pytest.raises(ZeroDivisionError):
                submit(name, divmod, 1, 0).result()
    assert ran == [
        "begin", "threads", "end", "begin", "end", "begin", "io", "end", "begin", "end",
    ]  # fmt: skip
