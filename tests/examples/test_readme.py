"""The README tells the truth: its code runs, and its names exist."""

from __future__ import annotations

import inspect
import re
import tempfile
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from flask import Flask, g, request
from gunicorn.util import load_class
from sqlalchemy import create_engine
from sqlalchemy.orm import Mapped, Session, declarative_base, mapped_column
from sqlalchemy.pool import StaticPool

import wsgi_defer
from wsgi_defer import DeferMiddleware, defer, deferring
from wsgi_defer.flask import Defer
from wsgi_defer.gunicorn import SyncWorker
from wsgi_defer.gunicorn._hooks import HOOKS
from wsgi_defer.pools import ThreadPool
from wsgi_defer.testing import captured

from ..helpers.client import get, text_app

HOME = Path(__file__).parent.parent.parent
README = (HOME / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def block(marker):
    (found,) = [code for code in BLOCKS if marker in code]
    return found


def test_the_first_program(monkeypatch, capsys):
    """It is at most twelve lines, and does what the README says."""
    code = block("# app.py")
    statements = [line for line in code.splitlines() if line and line[0] != "#"]
    assert len(statements) <= 12
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    namespace = {}
    exec(code, namespace)
    assert get(namespace["app"]).body == b"thanks\n"
    assert capsys.readouterr().out == "mail sent to ada@example.org\n"


def test_options(ran, tmp_path, monkeypatch):
    """Every line of the options runs."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    names = ("refresh_cache", "write_audit", "alert", "charge", "resize", "clean_up")
    names += ("confirm",)
    thing = SimpleNamespace(id=7)
    namespace = {name: lambda *args, name=name: ran.append(name) for name in names}
    with deferring():
        more = {"user": thing, "order": thing, "session": Session()}
        exec(block("forget("), {**namespace, **more})
    assert ran == ["write_audit", "charge", "resize", "clean_up"]


def test_sqlalchemy(ran):
    """The call runs after the commit."""

    class Item(declarative_base()):
        __tablename__ = "items"
        id: Mapped[int] = mapped_column(primary_key=True)
        what: Mapped[str]

    engine = create_engine("sqlite://", poolclass=StaticPool)
    Item.metadata.create_all(engine)
    request = SimpleNamespace(form={"what": "book"})
    with Session(engine) as session, deferring():
        names = {"Item": Item, "session": session, "defer": defer}
        names["confirm"] = ran.append
        exec(block("session.flush()"), names)
        names["order"](request)
    assert ran == [1]
    engine.dispose()


def test_before_response(ran):
    """The task is handed over."""
    task = SimpleNamespace(delay=ran.append)
    with deferring():
        exec(block("task.delay"), {"task": task})
    assert ran == [42]


def test_deferring(ran):
    """The block runs its calls."""

    def import_orders(path):
        wsgi_defer.defer(ran.append, path)

    exec(block("with deferring"), {"import_orders": import_orders})
    assert ran == ["orders.csv"]


def test_promises(ran, capsys):
    """The price is there early, and the invoice is sent afterwards."""
    names = {
        "load": lambda order: ran.append("load") or 10,
        "add_tax": lambda price: price + 2,
        "send_invoice": ran.append,
        "apologize": ran.append,
        "release": lambda: ran.append("released"),
    }
    with deferring():
        exec(block("price.result()"), {**names, "defer": defer, "order": 1})
        assert ran == ["load"]
    assert ran == ["load", 12, "released"]
    assert capsys.readouterr().out == "12\n"


def test_jobs(ran):
    """A job is enqueued, and its handler does it."""
    namespace = {"send_mail": ran.append}
    exec(block("jobs.db").replace('"sqlite:////srv/shop/jobs.db"', "None"), namespace)
    job_id = namespace["signup"]("ada@example.org")
    assert namespace["jobs"].status(job_id).state == "done"
    assert ran == ["ada@example.org"]


def test_flask(ran):
    """The app answers and sends."""
    namespace = {"__name__": "app", "send_mail": ran.append}
    exec(block("signup():\n    defer"), namespace)
    response = namespace["app"].test_client().post("/signup", data={"email": "ada"})
    assert (response.status_code, ran) == (201, ["ada"])


def test_flask_with_something_around(ran):
    """It is gone in the call, and was there in the view."""
    app = Flask(__name__)
    namespace = {"contextmanager": contextmanager, "g": g, "Defer": Defer, "app": app}
    exec(block("fresh_user"), namespace)

    @app.get("/")
    def view():
        g._login_user = "detached"
        defer(lambda: ran.append("_login_user" in g))
        return str("_login_user" in g)

    assert app.test_client().get("/").text == "True"
    assert ran == [False]


def test_django():
    """Its blocks are those of the page, which test_django_readme.py runs."""
    page = (HOME / "wsgi_defer" / "django" / "README.md").read_text()
    for marker in ("INSTALLED_APPS", "request.POST"):
        assert block(marker) in page


def test_the_fixture_of_tests():
    """It is a captured() block, and does not let the call run."""
    app = Flask("shop")
    Defer(app)
    app.post("/signup")(lambda: defer(divmod, request.form["email"]) and "hello")
    namespace = {"send_mail": divmod}
    exec(block("assert_deferred"), namespace)
    with captured() as deferred:
        namespace["test_signup"](app.test_client(), deferred)


def test_gunicorn():
    """The worker class exists under that name."""
    namespace = {}
    exec(block("worker_class"), namespace)
    assert load_class(namespace["worker_class"]) is SyncWorker
    assert set(HOOKS) < set(namespace)


def test_middleware_options_and_an_observer(capsys):
    """All of the options are there, and the observer prints its line."""
    namespace = {}
    exec(block("class Timings"), namespace)
    namespace["app"] = text_app(lambda: defer(int))
    namespace["DeferMiddleware"] = DeferMiddleware
    namespace["ThreadPool"] = ThreadPool
    exec(block("when_full"), namespace)
    get(namespace["app"])
    assert capsys.readouterr().out.startswith("builtins.int ")
    documented = set(re.findall(r"    (\w+)=", block("when_full")))
    real = set(inspect.signature(DeferMiddleware).parameters) - {"app"}
    assert real - documented == {"around", "inline"}


def test_no_block_is_forgotten():
    """A new block of code gets a test."""
    markers = ["# app.py", "forget(", "task.delay", "with deferring", "Defer(app)",
               "worker_class", "price.result()", "when_full", "class Timings",
               "gather(", "detach", "jobs.db", "fresh_user", "INSTALLED_APPS",
               "request.POST", "assert_deferred", "session.flush()"]  # fmt: skip
    assert len(BLOCKS) == len(markers)


def test_the_modules_are_those_of_the_package():
    """The map of the inside names each folder and public module, and no other."""
    tree = README.partition("\n    wsgi_defer/ ")[2].partition("\n\n")[0]
    named = set(re.findall(r"^ {6}(\w+/?) ", tree, re.MULTILINE))
    package = HOME / "wsgi_defer"
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    folders = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    assert named == modules | folders


@pytest.mark.parametrize("name", wsgi_defer.__all__)
def test_every_public_name_is_documented(name):
    """It has a docstring of its own."""
    assert getattr(wsgi_defer, name).__doc__
