"""The README and the pages tell the truth: their code runs, and their names exist."""

from __future__ import annotations

import inspect
import re
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from flask import Flask, g
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

from ..helpers.client import get, text_app
from .test_testing_page import run as run_pytest

HOME = Path(__file__).parent.parent.parent
DOCS = HOME / "docs"


def blocks(page):
    """The Python blocks of ``README.md``, or of a page by its name."""
    path = HOME / page if page == "README.md" else DOCS / f"{page}.md"
    return re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)


def block(page, marker):
    """The one with this text in it."""
    (found,) = [code for code in blocks(page) if marker in code]
    return found


def test_the_first_program(monkeypatch, capsys):
    """It is at most twelve lines, and does what the README says."""
    code = block("README.md", "# app.py")
    statements = [line for line in code.splitlines() if line and line[0] != "#"]
    assert len(statements) <= 12
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    namespace = {}
    exec(code, namespace)
    assert get(namespace["app"]).body == b"thanks\n"
    assert capsys.readouterr().out == "mail sent to ada@example.org\n"


def test_options(ran):
    """Every line of the options runs."""
    names = ("refresh_cache", "write_audit", "alert", "charge", "resize", "confirm")
    thing = SimpleNamespace(id=7)
    namespace = {name: lambda *args, name=name: ran.append(name) for name in names}
    with deferring():
        more = {"user": thing, "order": thing, "session": Session()}
        exec(block("options", "forget("), {**namespace, **more})
    assert ran == ["write_audit", "charge", "resize"]


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
        exec(block("sqlalchemy", "session.flush()"), names)
        names["order"](request)
    assert ran == [1]
    engine.dispose()


def test_before_response(ran):
    """The task is handed over."""
    task = SimpleNamespace(delay=ran.append)
    with deferring():
        exec(block("choosing", "task.delay"), {"task": task})
    assert ran == [42]


def test_deferring(ran):
    """The block runs its calls."""

    def import_orders(path):
        wsgi_defer.defer(ran.append, path)

    exec(block("options", "with deferring"), {"import_orders": import_orders})
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
        exec(block("options", "price.result()"), {**names, "defer": defer, "order": 1})
        assert ran == ["load"]
    assert ran == ["load", 12, "released"]
    assert capsys.readouterr().out == "12\n"


def test_flask(ran):
    """The app answers and sends."""
    namespace = {"__name__": "app", "send_mail": ran.append}
    exec(block("README.md", "signup():\n    defer"), namespace)
    response = namespace["app"].test_client().post("/signup", data={"email": "ada"})
    assert (response.status_code, ran) == (201, ["ada"])


def test_flask_with_something_around(ran):
    """It is gone in the call, and was there in the view."""
    app = Flask(__name__)
    namespace = {"contextmanager": contextmanager, "g": g, "Defer": Defer, "app": app}
    exec(block("flask", "fresh_user"), namespace)

    @app.get("/")
    def view():
        g._login_user = "detached"
        defer(lambda: ran.append("_login_user" in g))
        return str("_login_user" in g)

    assert app.test_client().get("/").text == "True"
    assert ran == [False]


@pytest.mark.parametrize("page", ["README.md", "start-django"])
def test_django(page):
    """Its view is that of the page which test_django_page.py runs."""
    assert block(page, "request.POST") in blocks("django")
    assert '"wsgi_defer.django"' in block(page, "INSTALLED_APPS")


@pytest.mark.parametrize("page", ["start-wsgi", "index"])
def test_the_first_program_elsewhere(page):
    """It is the same as in the README."""
    assert blocks(page) == [block("README.md", "# app.py")]


def test_five_minutes_with_flask(tmp_path):
    """The app, and its test with pytest."""
    for name in ("shop", "test_shop"):
        (tmp_path / f"{name}.py").write_text(block("start-flask", f"# {name}.py"))
    assert "1 passed" in run_pytest(tmp_path)


def test_middleware_options_and_an_observer(capsys):
    """All of the options are there, and the observer prints its line."""
    namespace = {}
    exec(block("observers", "class Timings"), namespace)
    namespace["app"] = text_app(lambda: defer(int))
    namespace["DeferMiddleware"] = DeferMiddleware
    namespace["ThreadPool"] = ThreadPool
    exec(block("options", "when_full"), namespace)
    get(namespace["app"])
    assert capsys.readouterr().out.startswith("builtins.int ")
    documented = set(re.findall(r"    (\w+)=", block("options", "when_full")))
    real = set(inspect.signature(DeferMiddleware).parameters) - {"app"}
    assert real - documented == {"around", "inline"}


# Run by tests above, by their texts; pages whose blocks other tests run are not here.
RUN = {
    "README.md": ["# app.py", "Defer(app)", "INSTALLED_APPS", "request.POST"],
    "index": ["# app.py"],
    "start-wsgi": ["# app.py"],
    "start-flask": ["# shop.py", "# test_shop.py", "worker_class"],
    "start-django": ["INSTALLED_APPS", "request.POST", "TestCase", "worker_class"],
    "choosing": ["task.delay"],
    "options": ["forget(", "price.result()", "when_full", "with deferring"],
    "flask": ["Defer(app)\n\n\n@app", "fresh_user"],
    "sqlalchemy": ["session.flush()"],
    "pools": ["gather("],
    "commands": ["detach"],
    "observers": ["class Timings"],
    "gunicorn": ["worker_class"],
    "incident": ["max_waiting"],
}
ELSEWHERE = {"django", "frameworks", "testing"}


def test_no_block_is_forgotten():
    """A new block of code gets a test."""
    pages = {path.stem for path in DOCS.glob("*.md")} - ELSEWHERE
    pages = {page for page in pages if blocks(page)} | {"README.md"}
    assert pages == set(RUN)
    for page, markers in RUN.items():
        assert len(blocks(page)) == len(markers)
        for marker in markers:
            assert block(page, marker)


@pytest.mark.parametrize("page", ["start-flask", "start-django", "gunicorn"])
def test_configurations_of_gunicorn(page):
    """The worker class exists under that name, and the hooks are installed."""
    namespace = {}
    exec(block(page, "worker_class"), namespace)
    assert load_class(namespace["worker_class"]) is SyncWorker
    assert set(HOOKS) < set(namespace)


def test_the_incident():
    """Its options exist."""
    namespace = {"app": text_app(int)}
    exec(block("incident", "max_waiting"), namespace)
    assert get(namespace["app"]).body == b"hello"


def test_the_modules_are_those_of_the_package():
    """The map of the inside names each folder and public module, and no other."""
    page = (DOCS / "architecture.md").read_text()
    tree = page.partition("\n    wsgi_defer/ ")[2].partition("\n\n")[0]
    named = set(re.findall(r"^ {6}(\w+/?) ", tree, re.MULTILINE))
    package = HOME / "wsgi_defer"
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    folders = {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    assert named == modules | folders


@pytest.mark.parametrize("name", wsgi_defer.__all__)
def test_every_public_name_is_documented(name):
    """It has a docstring of its own."""
    assert getattr(wsgi_defer, name).__doc__
