"""``environ["wsgi.response_finished"]``, as docs/response_finished.md specifies it.

On real servers, see tests/system/test_lint_command.py.
"""

from __future__ import annotations

import gc
import io
import logging
from functools import partial

import pytest

from wsgi_defer import DeferMiddleware, background, before_response, defer
from wsgi_defer.observers._observer import Observer
from wsgi_defer.testing import captured

from ...helpers.client import Reply, get, make_environ

KEY = "wsgi.response_finished"
HEADERS = [("Content-Type", "text/plain")]


class Heard:
    """Callables, and what they were called with."""

    def __init__(self):
        self.calls = []
        self.names = []

    def add(self, environ, name="", error=None):
        """Append one to the list in the environ."""

        def heard(*args):
            self.names.append(name)
            self.calls.append(args)
            if error is not None:
                raise error

        environ[KEY].append(heard)


@pytest.fixture
def heard():
    return Heard()


def register(add, body=(b"hello",), status="200 OK"):
    """An app that registers something, and answers."""

    def app(environ, start_response):
        add(environ)
        start_response(status, HEADERS)
        return body() if callable(body) else list(body)

    return app


@pytest.mark.promise("R1")
def test_the_key_is_an_empty_list_of_the_requests_own():
    """Of the very type, and a new one for each request."""
    lists = []

    def app(environ, start_response):
        lists.append(environ[KEY])
        start_response("200 OK", HEADERS)
        return []

    for _ in range(2):
        get(DeferMiddleware(app))
    assert [(type(each), each) for each in lists] == [(list, [])] * 2
    assert lists[0] is not lists[1]


@pytest.mark.promise("R2")
def test_every_kind_of_callable(ran):
    """A function, a method, a partial, and an object; each is called once."""

    class Object:
        def __call__(self, *args):
            ran.append("object")

        def method(self, *args):
            ran.append("method")

    def add(environ):
        environ[KEY] += [
            Object(), Object().method, lambda *args: ran.append("lambda"),
            partial(lambda name, *args: ran.append(name), "partial"),
        ]  # fmt: skip

    get(DeferMiddleware(register(add)))
    assert ran == ["partial", "lambda", "method", "object"]


@pytest.mark.promise("R2")
def test_what_cannot_be_called(ran, caplog):
    """That is logged, and the others are called."""
    get(DeferMiddleware(register(lambda e: e[KEY].extend([ran.append, 1, None]))))
    assert [r.exc_info[0] for r in caplog.records] == [TypeError] * 3


@pytest.mark.promise("R3", "R4")
def test_the_arguments(heard):
    """The app's own environ, the status and headers as it gave them, and no error.
    What else is known of the end is the outcome."""
    environ, outcomes = make_environ(), []

    def add(environ):
        heard.add(environ)
        environ[KEY].append(
            lambda env, *_: outcomes.append(env["wsgi_defer.scope"].outcome)
        )

    get(DeferMiddleware(register(add, status="404 Not Found")), environ=environ)
    [(seen, status, headers, error)] = heard.calls
    assert seen is environ
    assert headers is HEADERS
    assert (status, error) == ("404 Not Found", None)
    [outcome] = outcomes
    assert outcome.delivered
    assert outcome.duration > 0


@pytest.mark.promise("R3")
def test_nothing_was_answered(heard):
    """Neither status nor headers, and an error."""
    with pytest.raises(LookupError):
        get(DeferMiddleware(raising(heard)))
    assert background.join(10)
    [(_, status, headers, error)] = heard.calls
    assert (status, headers, type(error)) == (None, None, LookupError)


def raising(heard):
    """An app that registers one, and fails."""

    def app(environ, start_response):
        heard.add(environ)
        raise LookupError

    return app


@pytest.mark.promise("R5")
def test_the_order(heard, ran):
    """The last one first; deferred calls come before, in their own order."""

    def add(environ):
        for name in "abc":
            heard.add(environ, name)
            defer(heard.names.append, name.upper())

    get(DeferMiddleware(register(add)))
    assert heard.names == [*"ABC", *"cba"]


def bodies():
    """Each kind of body."""

    def generator():
        yield b"hello"

    class Sized:
        def __iter__(self):
            return iter([b"hello"])

        def __len__(self):
            return 1

    return [list, generator, lambda: iter([b"x", b"y"]), Sized, lambda: (b"x",)]


@pytest.mark.parametrize("body", bodies())
@pytest.mark.parametrize("calls", [0, 1])
def test_every_kind_of_body(heard, ran, body, calls):
    """Each leads to the end, with deferred calls beside it, and without."""

    def add(environ):
        heard.add(environ)
        for _ in range(calls):
            defer(ran.append, 1)

    get(DeferMiddleware(register(add, body)))
    assert len(heard.calls) == 1
    assert ran == [1] * calls


def test_a_file_keeps_its_class(heard):
    """The server still sends it as a file."""

    class Wrapper:
        def __init__(self, file):
            self.file = file

        def __iter__(self):
            return iter([self.file.read()])

        def close(self):
            self.file.close()

    def app(environ, start_response):
        heard.add(environ)
        start_response("200 OK", HEADERS)
        return environ["wsgi.file_wrapper"](io.BytesIO(b"hello"))

    environ = make_environ(**{"wsgi.file_wrapper": Wrapper})
    body = DeferMiddleware(app)(environ, Reply().start_response)
    assert type(body) is Wrapper
    body.close()
    assert len(heard.calls) == 1


def test_a_callable_from_the_stream(heard):
    """Registered as late as in the body, or in its close()."""

    class Body:
        def __init__(self, environ):
            self.environ = environ

        def __iter__(self):
            heard.add(self.environ, "step")
            yield b"x"

        def close(self):
            heard.add(self.environ, "close")

    def app(environ, start_response):
        start_response("200 OK", HEADERS)
        return Body(environ)

    get(DeferMiddleware(app))
    assert heard.names == ["close", "step"]
    assert heard.calls[0][1:3] == ("200 OK", HEADERS)


@pytest.mark.promise("R6")
@pytest.mark.parametrize("items", [0, 1])
def test_making_the_response_fails(heard, items):
    """In the view, or in the body: the error is what the app raised."""
    error = LookupError("no such thing")

    def app(environ, start_response):
        heard.add(environ)
        start_response("200 OK", HEADERS)
        yield from [b"x"] * items
        raise error

    with pytest.raises(LookupError):
        get(DeferMiddleware(app))
    assert background.join(10)
    assert [args[3] for args in heard.calls] == [error]


@pytest.mark.promise("R6")
def test_sending_the_response_fails(heard):
    """The client leaves, or the server stops without a word; or nothing is closed."""

    def generator():
        yield b"a"
        yield b"b"

    app = DeferMiddleware(register(heard.add, generator))
    get(app, stop_after=1)
    assert [type(args[3]) for args in heard.calls] == [ConnectionResetError]
    app(make_environ(), Reply().start_response).close()
    assert type(heard.calls[1][3]) is ConnectionAbortedError
    body = app(make_environ(), Reply().start_response)
    del body
    gc.collect()
    assert background.join(10)
    assert type(heard.calls[2][3]) is ConnectionAbortedError


def test_a_dropped_stream_that_registered_late(heard):
    """Nothing was registered when the app returned."""

    def app(environ, start_response):
        start_response("200 OK", HEADERS)
        heard.add(environ)
        yield b"a"

    body = DeferMiddleware(app)(make_environ(), Reply().start_response)
    next(iter(body))
    del body
    gc.collect()
    assert background.join(10)
    assert [args[1] for args in heard.calls] == ["200 OK"]


@pytest.mark.promise("R7")
def test_one_raises(heard, caplog):
    """The others are called; the failure is logged with its name."""

    def add(environ):
        heard.add(environ, "1")
        heard.add(environ, "2", ValueError("broken"))
        heard.add(environ, "3")

    assert get(DeferMiddleware(register(add))).body == b"hello"
    assert heard.names == ["3", "2", "1"]
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert "Heard.add.<locals>.heard" in record.getMessage()


@pytest.mark.promise("R9")
def test_after_the_close_of_the_app(heard):
    """The app's own close() comes first."""

    class Body:
        def __iter__(self):
            return iter([b"x"])

        def close(self):
            heard.names.append("close")

    get(DeferMiddleware(register(partial(heard.add, name="finished"), Body)))
    assert heard.names == ["close", "finished"]


@pytest.mark.promise("R10")
def test_the_server_has_its_own(heard):
    """Its list is left alone: what is in it is the server's to call."""
    theirs = []
    environ = make_environ(**{KEY: theirs})
    get(DeferMiddleware(register(heard.add)), environ=environ)
    assert environ[KEY] is theirs
    assert len(theirs) == 1
    assert heard.calls == []


@pytest.mark.promise("R10")
def test_two_middlewares(heard):
    """The outer one provides the list, and calls what is in it, once."""
    get(DeferMiddleware(DeferMiddleware(register(heard.add))))
    assert len(heard.calls) == 1


def test_an_environ_that_is_used_again(heard):
    """The list of the first request is not taken for one of the server's."""
    app, environ = DeferMiddleware(register(heard.add)), make_environ()
    for _ in range(2):
        get(app, environ=environ)
    get(app, environ=dict(environ))
    assert len(heard.calls) == 3
    theirs = environ[KEY] = []
    get(app, environ=environ)
    assert (len(theirs), len(heard.calls)) == (1, 3)


def test_a_held_call_fails(heard):
    """Status and headers are those of the 503, the error is the call's."""

    def refuse():
        raise ConnectionError

    def add(environ):
        heard.add(environ)
        before_response(refuse)

    assert get(DeferMiddleware(register(add))).status == "503 Service Unavailable"
    [(_, status, headers, error)] = heard.calls
    assert (status, type(error)) == ("503 Service Unavailable", ConnectionError)
    assert ("Content-Length", "20") in headers


@pytest.mark.promise("R11")
def test_the_app_has_taken_the_connection(heard):
    """A WebSocket under gunicorn: once, at its end, and without an error."""

    def app(environ, start_response):
        heard.add(environ)
        raise StopIteration

    environ = make_environ(
        **{"gunicorn.socket": None, "wsgi.multithread": True},
        HTTP_UPGRADE="websocket",
    )
    with pytest.raises(StopIteration):
        DeferMiddleware(app)(environ, None)
    assert background.join(10)
    assert [args[1:] for args in heard.calls] == [(None, None, None)]


@pytest.mark.promise("R12")
def test_the_worker_is_told_to_stop(heard, caplog):
    """What was not called is named in the log. For SIGKILL, see test_ledger.py."""

    def stop(*args):
        raise KeyboardInterrupt

    def add(environ):
        heard.add(environ)
        environ[KEY].append(stop)

    with pytest.raises(KeyboardInterrupt):
        get(DeferMiddleware(register(add)))
    assert heard.calls == []
    assert ["stop lost" in r.getMessage() for r in caplog.records] == [True, False]
    assert "Heard.add.<locals>.heard" in caplog.text


def test_observers_and_tests_hear_of_them(heard):
    """As of deferred calls; no limit refuses one."""

    class Seen(Observer):
        queues = 0

        def queued(self, call, scope):
            self.queues += 1

    def add(environ):
        for _ in range(3):
            heard.add(environ)

    seen = Seen()
    app = DeferMiddleware(register(add), max_calls=1, max_waiting=1, observers=[seen])
    get(app)
    assert (len(heard.calls), seen.queues) == (3, 3)
    with captured() as calls:
        get(app)
        assert len(calls) == 3
        calls.run()
    assert len(heard.calls) == 6


def test_nothing_is_kept(heard):
    """No cycle: the request is gone without the garbage collector."""

    class Marker:
        gone = False

        def __del__(self):
            Marker.gone = True

    def serve():
        environ = make_environ(marker=Marker())
        get(DeferMiddleware(register(lambda e: e[KEY].append(lambda *a: None))),
            environ=environ)  # fmt: skip
        environ.pop("wsgi_defer.scope")

    gc.collect()
    gc.disable()
    try:
        serve()
        assert Marker.gone
    finally:
        gc.enable()
