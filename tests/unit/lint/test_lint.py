"""``wsgi_defer.lint``: each rule is broken once."""

from __future__ import annotations

import io
import re

import pytest

from wsgi_defer import DeferMiddleware, background
from wsgi_defer.lint import Lint, LintError, lint

from ...helpers.client import get, make_environ

KEY = "wsgi.response_finished"


def good(environ, status, headers, error):
    """A callable as it should be."""


def app(add, *, body=lambda environ: [b"hello"], start=True):
    """An app that does something to its environ."""

    def made(environ, start_response):
        add(environ)
        if start:
            start_response("200 OK", [("Content-Type", "text/plain")])
        return body(environ)

    return made


def serve(made, call, finished=None):
    """A server that has the list, and calls what is in it by ``call(list, facts)``."""
    checked = Lint(made)
    finished = [] if finished is None else finished
    environ = make_environ(**{KEY: finished})
    get(checked, environ=environ)
    call(finished, (environ, "200 OK", [], None))
    return checked


def rightly(finished, facts):
    """What a server should do."""
    while finished:
        finished.pop()(*facts)


def test_all_is_well(ran):
    """The app's entry is called, and nothing is said."""
    checked = serve(
        app(lambda e: e[KEY].append(lambda *args: ran.append(args))), rightly
    )
    assert checked.errors == []
    assert ran[0][1:] == ("200 OK", [], None)
    assert lint is Lint


def test_a_server_without_it():
    """It may leave the key out; the app's body is left alone."""
    body = Lint(app(lambda e: None))(make_environ(), lambda *args: None)
    assert body == [b"hello"]


@pytest.mark.promise("R1")
@pytest.mark.parametrize("value", [(), None, {}])
def test_no_list(value):
    """A server may not put anything else there."""
    with pytest.raises(LintError, match="not a list"):
        get(Lint(app(lambda e: None)), environ=make_environ(**{KEY: value}))


def late(environ):
    """A body that registers something bad as late as in its second step."""
    yield b"1"
    environ[KEY].append(3)
    yield b"2"


class Closing(list):
    """A body whose close() registers something bad."""

    def close(self):
        self[0][KEY].append(3)

    def __iter__(self):
        return iter([b"x"])


BAD_APPS = {
    "int is in the list": app(lambda e: e[KEY].append(3)),
    "<lambda> is in the list, and does not take": app(
        lambda e: e[KEY].append(lambda environ: None)
    ),
    "has replaced the list": app(lambda e: e.update({KEY: []})),
    "has removed or moved": app(lambda e: e[KEY].clear()),
    "moved what others": app(lambda e: e[KEY].insert(0, good)),
    "int is in the list, and cannot": app(lambda e: None, body=late),
    "int is in the list, and": app(lambda e: None, body=lambda e: Closing([e])),
    "was called before the body was closed": app(lambda e: e[KEY][0](e, "", [], None)),
}


@pytest.mark.promise("R1", "R2")
@pytest.mark.parametrize("message", BAD_APPS)
def test_what_an_app_does_wrong(message):
    """It is raised where the app did it."""
    checked = Lint(BAD_APPS[message])
    with pytest.raises(LintError, match=re.escape(message)):
        get(checked, environ=make_environ(**{KEY: []}))
    assert re.search(r"\(docs/response_finished.md, \d+\)$", str(checked.errors[0]))


def test_an_app_that_raises():
    """Its own error goes up, and the server may call."""
    environ = make_environ(**{KEY: []})

    def failing(environ):
        environ[KEY].append(good)
        raise LookupError

    checked = Lint(app(failing))
    with pytest.raises(LookupError):
        get(checked, environ=environ)
    environ[KEY].pop()
    rightly(environ[KEY], (environ, None, None, LookupError()))
    assert checked.errors == []


def called_with(**changed):
    """A server that passes something else."""

    def call(finished, facts):
        names = ["environ", "status", "headers", "error"]
        facts = dict(zip(names, facts, strict=True)) | changed
        rightly(finished, facts.values())

    return call


def in_order(finished, facts):
    """The first one first."""
    for entry in finished:
        entry(*facts)


def twice(finished, facts):
    """Each one twice."""
    for entry in reversed(finished):
        entry(*facts)
        entry(*facts)


BAD_SERVERS = {
    "was called before one that was appended after it": in_order,
    "good was called twice": twice,
    "with 3 arguments": lambda finished, facts: rightly(finished, facts[:3]),
    "not called with the environ": called_with(environ={}),
    "not 200": called_with(status=200),
    "not '099 x'": called_with(status="099 x"),
    "the headers must be": called_with(headers={}),
    "a list of tuples": called_with(headers=[("a", b"b")]),
    "or None, not str": called_with(error="broken"),
    "or vice versa": called_with(status=None),
}


@pytest.mark.promise("R3", "R4", "R5")
@pytest.mark.parametrize("message", BAD_SERVERS)
def test_what_a_server_does_wrong(message):
    """It is raised in the callable that it calls, and kept."""
    add = app(lambda e: e[KEY].extend([good, good]))
    with pytest.raises(LintError, match=re.escape(message)):
        serve(add, BAD_SERVERS[message])


def test_a_callable_in_c():
    """One that does not tell its arguments is let through."""
    assert serve(app(lambda e: e[KEY].append(dict)), lambda *args: None)


def test_a_server_that_calls_nothing(caplog):
    """It is noticed when the list is dropped."""
    checked = serve(app(lambda e: e[KEY].append(good)), lambda *args: None)
    [error] = checked.errors
    assert "called nothing" in str(error)
    assert "called nothing" in caplog.text


def test_the_middleware_keeps_all_rules():
    """Every kind of end, with lint inside of DeferMiddleware."""

    def add(environ):
        environ[KEY] += [good, good]

    def raising(environ):
        yield b"x"
        raise LookupError

    def failing(environ):
        raise LookupError

    for body in (lambda e: [b"x"], lambda e: iter([b"x", b"y"]), raising, failing):
        checked = Lint(app(add, body=body))
        for stop_after in (None, 1):
            try:
                get(DeferMiddleware(checked), stop_after=stop_after)
            except LookupError:
                pass
            assert background.join(10)
        assert checked.errors == []


def test_the_close_of_a_refused_body(ran):
    """The app's body is closed if lint refuses it."""

    class Body(io.BytesIO):
        def close(self):
            ran.append("closed")

    with pytest.raises(LintError):
        get(Lint(app(lambda e: e.pop(KEY), body=lambda e: Body())),
            environ=make_environ(**{KEY: []}))  # fmt: skip
    assert ran[0] == "closed"
