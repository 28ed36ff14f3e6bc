"""The same views in Flask and in Django, each tested in two ways and served by a real
gunicorn: what ran, in what order, and why the rest did not.

    python -m tests.django.situations     prints the table
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import urllib.request
from contextlib import suppress
from urllib.error import HTTPError
from urllib.parse import quote

import django
import flask
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.test import Client
from django.test.utils import setup_test_environment
from django.urls import path
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from wsgi_defer import Observer
from wsgi_defer.flask import Defer
from wsgi_defer.testing import DeferredCallsFailed, captured, strict

from ..helpers.programs import HOME
from ..helpers.waiting import OF_PROCESSES, until
from ..unit.testing.situations import SITUATIONS
from ..wire.servers import free_port

FRAMEWORKS = ("flask", "django")
WAYS = ("captured()", "strict()", "gunicorn")
ran = []


class Skips(Observer):
    """Why deferred calls were skipped."""

    why = []

    def skipped(self, call, scope, why):
        if call.kind == "deferred":
            self.why.append(why)


def body_of(name):
    """What both views do; both frameworks answer 500 for an error."""
    SITUATIONS[name].view(ran)
    if SITUATIONS[name].raises:
        raise LookupError
    return "hello", 404 if SITUATIONS[name].status == 404 else 200


in_flask = flask.Flask("shop")
Defer(in_flask, observers=[Skips()])
in_flask.logger.disabled = True
in_flask.get("/<name>")(body_of)


def view(request, name):
    text, status = body_of(name)
    return HttpResponse(text, status=status)


urlpatterns = [path("<name>", view)]
settings.configure(
    SECRET_KEY="x",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["wsgi_defer.django"],
    MIDDLEWARE=["wsgi_defer.django.DeferMiddleware"],
    WSGI_DEFER={"observers": [Skips()]},
    LOGGING_CONFIG=None,
)
django.setup()


def what_happened():
    """What ran and why the rest did not; from now on, nothing has happened."""
    happened = [*ran], [*Skips.why]
    del ran[:], Skips.why[:]
    return happened


def tell(environ, start_response):
    """What happened in this worker, which is done with it."""
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(what_happened()).encode()]


application = DispatcherMiddleware(
    tell, {"/flask": in_flask, "/django": get_wsgi_application()}
)


def send(framework, name):
    """By the client of the framework."""
    if framework == "flask":
        status = in_flask.test_client().get(f"/{quote(name)}").status_code
    else:
        client = Client(raise_request_exception=False)
        status = client.get(f"/{quote(name)}").status_code
    assert status == SITUATIONS[name].status, (framework, name, status)


def capture(framework, name):
    with captured() as calls:
        send(framework, name)
        before = len(ran)
        texts = [call.text for call in calls]
        calls.run()
        # What it lists are the calls that then ran, but for those of calls.
        assert len(texts) <= len(ran) - before, (framework, name, texts)
        assert [call.why for call in calls.skipped] == Skips.why
    return what_happened()


def be_strict(framework, name):
    failed = ()
    try:
        with strict():
            send(framework, name)
    except DeferredCallsFailed as error:
        failed = error.failures
    assert bool(failed) == (name == "held that fails"), (framework, name, failed)
    return what_happened()


class Gunicorn:
    """Serves both apps, in one worker."""

    def __enter__(self):
        self.port = free_port()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", f"{__package__}.situations:application",
             "--worker-class", "wsgi_defer.gunicorn.SyncWorker",
             "--bind", f"127.0.0.1:{self.port}"],
            cwd=tempfile.gettempdir(), env={**os.environ, "PYTHONPATH": HOME},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            until(self.answers, "gunicorn", OF_PROCESSES)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error):
        self.process.terminate()
        self.process.wait(OF_PROCESSES)

    def answers(self):
        with suppress(OSError):
            return self.get("/") is not None

    def get(self, page):
        url = f"http://127.0.0.1:{self.port}{page}"
        with urllib.request.urlopen(url, timeout=OF_PROCESSES) as reply:
            return reply.read()

    def serve(self, framework, name):
        try:
            self.get(f"/{framework}/{quote(name)}")
            status = 200
        except HTTPError as error:
            error.close()
            status = error.code
        assert status == SITUATIONS[name].status, (framework, name, status)
        return tuple(json.loads(self.get("/")))


def expected(name):
    """As of a bare WSGI app, but that these frameworks answer for an error."""
    situation = SITUATIONS[name]
    whys = [
        why.replace("LookupError was raised", "the status is 500")
        for why in situation.why
    ]
    return situation.ran, whys


def main():
    setup_test_environment()
    logging.disable()
    wrong = 0
    heads = [f"{each}, {way}" for each in FRAMEWORKS for way in WAYS]
    print(f"| situation | ran | skipped | {' | '.join(heads)} |")
    print(f"|{'---|' * (len(heads) + 3)}")
    with Gunicorn() as gunicorn:
        for name in SITUATIONS:
            wanted = expected(name)
            cells = []
            for framework in FRAMEWORKS:
                for way in (capture, be_strict, gunicorn.serve):
                    happened = way(framework, name)
                    wrong += happened != wanted
                    cells.append("same" if happened == wanted else f"{happened}")
            what = ", ".join(map(str, wanted[0])), "; ".join(wanted[1])
            print(f"| {' | '.join([name, *what, *cells])} |")
    sys.exit(wrong)


if __name__ == "__main__":
    main()
