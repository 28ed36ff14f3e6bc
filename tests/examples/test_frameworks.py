"""The examples of other frameworks run as they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wsgi_defer import DeferMiddleware, defer
from wsgi_defer.testing import exchange

from ..helpers.programs import HOME, installed
from ..helpers.waiting import OF_PROCESSES

WEBOB = "ignore::DeprecationWarning"  # it imports cgi


def run(folder, *args):
    path = os.pathsep.join([installed(folder), HOME])
    return subprocess.run(
        [sys.executable, "-W", WEBOB, *args], cwd=HOME, text=True, check=True,
        env={**os.environ, "PYTHONPATH": path}, timeout=OF_PROCESSES,
        stdout=subprocess.PIPE,
    ).stdout  # fmt: skip


@pytest.mark.parametrize("name", ["bottle", "falcon", "pyramid", "werkzeug"])
def test_it_runs(tmp_path, name):
    """The mail is sent, and the page is there."""
    pytest.importorskip(name)
    example = Path(HOME, "examples", f"{name}_app.py")
    assert len(example.read_text().splitlines()) <= 40
    out = run(tmp_path, str(example))
    assert out == "mail sent to ada (fr)\nWelcome, ada!\n"


def test_the_ini_file_of_pyramid(tmp_path):
    """The filter is found by its name, as gunicorn --paste finds it."""
    pytest.importorskip("pyramid")
    pytest.importorskip("paste.deploy")
    out = run(tmp_path, "-c", """if True:
        from paste.deploy import loadapp
        from wsgi_defer import DeferMiddleware
        from wsgi_defer.testing import exchange
        app = loadapp("config:examples/pyramid.ini", relative_to=".")
        assert isinstance(app, DeferMiddleware)
        assert app.options.time_limit == 60
        print(exchange(app, "/signup/bob").body.decode(), end="")
    """)  # fmt: skip
    assert out == "mail sent to bob (en)\nWelcome, bob!\n"


@pytest.mark.filterwarnings(WEBOB)
@pytest.mark.parametrize("ends", ["well", "badly", "in its commit"])
def test_transactions_of_pyramid(ran, ends):
    """Calls run when pyramid_tm has committed, and not if it could not."""
    pytest.importorskip("pyramid_tm")
    import transaction
    from pyramid.config import Configurator
    from pyramid.response import Response
    from pyramid.threadlocal import get_current_request

    def refuse():
        raise LookupError

    def view(request):
        current = transaction.get()
        current.addAfterCommitHook(lambda succeeded: ran.append(("commit", succeeded)))
        if ends == "in its commit":
            current.addBeforeCommitHook(refuse)
        defer(ran.append, "call")
        defer(lambda: ran.append(get_current_request()))
        if ends == "badly":
            raise LookupError
        return Response("done")

    with Configurator() as config:
        config.include("pyramid_tm")
        config.add_route("index", "/")
        config.add_view(view, route_name="index")
    exchange(DeferMiddleware(config.make_wsgi_app()))
    assert ran == ([("commit", True), "call", None] if ends == "well" else [])


@pytest.mark.parametrize("inline", [True, False])
def test_the_request_of_bottle(ran, inline):
    """It is of the thread, so a call may or may not have it: pass what it needs."""
    bottle = pytest.importorskip("bottle")
    app = bottle.Bottle()

    @app.get("/")
    def index():
        defer(lambda: ran.append(bottle.request.query.lang))
        return "done"

    reply = exchange(DeferMiddleware(app, inline=inline), "/?lang=fr")
    assert [call.became for call in reply.calls] == ["finished" if inline else "failed"]
    assert ran == ["fr"][:inline]
