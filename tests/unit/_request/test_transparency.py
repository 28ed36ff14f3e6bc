"""With nothing deferred, an app and a server cannot tell that it is there."""

from __future__ import annotations

import gc
import io
import logging
import weakref
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import pytest

from wsgi_defer import DeferMiddleware, background, before_response, defer

from ...helpers.client import Reply, get, make_environ


def wrap(body, status="200 OK", headers=()):
    def app(environ, start_response):
        start_response(status, list(headers))
        return body

    return DeferMiddleware(app)


class Slots:
    """A file wrapper whose instances take no attribute, as those in C."""

    __slots__ = ("_file",)

    def __init__(self, file, block_size=8192):
        self._file = file

    def __iter__(self):
        return iter(self._file)

    def close(self):
        self._file.close()


@pytest.mark.parametrize("body", [[b"a", b"b"], (b"a",), [], None, "text", b"bytes", 3])
def test_the_very_object(body):
    """Finished bodies and garbage go to the server as they are."""
    app = wrap(body)
    assert app(make_environ(), lambda status, headers: None) is body


def test_list_subclass_with_close():
    """A list that can be closed is still the very object."""

    class Body(list):
        def close(self):
            raise NotImplementedError

    body = Body()
    assert wrap(body)(make_environ(), lambda status, headers: None) is body


@pytest.mark.parametrize("deferred", [False, True])
def test_file_wrapper(ran, deferred):
    """The server's file wrapper keeps its class and identity, deferred or not."""
    file = io.BytesIO(b"file")

    def app(environ, start_response):
        start_response("200 OK", [])
        if deferred:
            defer(ran.append, 1)
        return environ["wsgi.file_wrapper"](file)

    environ = make_environ(**{"wsgi.file_wrapper": FileWrapper})
    body = DeferMiddleware(app)(environ, lambda status, headers: None)
    assert type(body) is FileWrapper
    assert ("close" in vars(body) and body.close != file.close) is deferred
    assert list(body) == [b"file"]
    body.close()
    body.close()
    assert file.closed
    assert ran == [1] * deferred


def test_file_wrapper_without_iter_and_close(ran):
    """gunicorn's had no __iter__ up to 23, and none a close if the file has none."""

    class Bare:
        def __getitem__(self, index):
            return [b"1", b"2"][index]

    def app(environ, start_response):
        start_response("200 OK", [])
        defer(ran.append, 1)
        return Bare()

    for wrapper in (Bare, None, 5, lambda file: file):
        environ = make_environ(**{"wsgi.file_wrapper": wrapper})
        assert get(DeferMiddleware(app), environ=environ).body == b"12"
    assert ran == [1] * 4


def test_file_wrapper_that_takes_no_attribute(ran):
    """It is wrapped then: slower, but its calls are not lost."""

    class File(list):
        def close(self):
            ran.append("closed")

    def app(environ, start_response):
        start_response("200 OK", [])
        defer(ran.append, 1)
        return Slots(File([b"1"]))

    environ = make_environ(**{"wsgi.file_wrapper": Slots})
    assert get(DeferMiddleware(app), environ=environ).body == b"1"
    assert ran == ["closed", 1]


class Items:
    """A body that is read by the older protocol, as gunicorn's files were up to 23."""

    def __init__(self, file, block_size=1):
        self.file, self.block_size = file, block_size
        self.close = file.close

    def __getitem__(self, index):
        if data := self.file.read(self.block_size):
            return data
        raise IndexError


class Response:
    """A framework's response: its steps are a generator."""

    def __iter__(self):
        yield from (b"1", b"2")


class Finished(Response):
    """The same, with a length."""

    def __len__(self):
        return 2


BODIES = {
    "list": lambda wrapper: [b"1", b"2"],
    "tuple": lambda wrapper: (b"1", b"2"),
    "generator": lambda wrapper: (item for item in (b"1", b"2")),
    "iterator": lambda wrapper: iter([b"1", b"2"]),
    "response": lambda wrapper: Response(),
    "finished": lambda wrapper: Finished(),
    "file": lambda wrapper: wrapper(io.BytesIO(b"12"), 1),
}


@pytest.mark.parametrize("wrapper", [FileWrapper, Items, Slots])
@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("read", [0, 1, 3])
def test_what_iter_gives_ends_the_response(ran, kind, wrapper, read):
    """A middleware outside keeps and closes that alone, as Datadog's does. The end is
    the same, and comes once, also if somebody closes the body, too."""

    def app(environ, start_response):
        start_response("200 OK", [])
        defer(int).when(lambda outcome: ran.append(outcome.delivered))
        return BODIES[kind](environ["wsgi.file_wrapper"])

    environ = make_environ(**{"wsgi.file_wrapper": wrapper})
    body = DeferMiddleware(app)(environ, lambda status, headers: None)
    if kind == "file":
        assert isinstance(body, wrapper) is (wrapper is not Slots)
    steps = iter(body)
    del body
    gc.collect()
    assert ran == []
    items = [b"12"] if wrapper is Slots and kind == "file" else [b"1", b"2"]
    read_items = [item for item in (next(steps, b"") for _ in range(read)) if item]
    assert read_items == items[:read]
    gc.disable()  # or its chance run would do it
    try:
        steps.close()
        assert len(ran) == 1
    finally:
        gc.enable()
    steps.close()
    gc.collect()
    assert ran == [read == 3 or (kind == "file" and wrapper is not Slots)]


def test_the_body_and_what_iter_gives_are_closed(ran):
    """By a middleware that does both, in either order."""

    class Body(Response):
        def close(self):
            ran.append("closed")

    def app(environ, start_response):
        start_response("200 OK", [])
        defer(ran.append, "call")
        return Body()

    for order in (1, -1):
        body = DeferMiddleware(app)(make_environ(), lambda status, headers: None)
        steps = iter(body)
        assert list(steps) == [b"1", b"2"]
        for each in (body, steps)[::order]:
            each.close()
    assert ran == ["closed", "call"] * 2


def test_file_delivered(ran):
    """A file is delivered unless the server fails while it sends it."""

    def app(environ, start_response):
        start_response("200 OK", [])
        defer(int).when(lambda outcome: ran.append(outcome.delivered))
        return environ["wsgi.file_wrapper"](io.BytesIO(b"1" * 20000))

    for stop in (None, 1):
        environ = make_environ(**{"wsgi.file_wrapper": FileWrapper})
        get(DeferMiddleware(app), environ=environ, stop_after=stop)
    assert ran == [True, False]


def test_environ_is_the_same_object():
    """The app gets the server's environ, and two keys more."""
    seen = []

    def app(environ, start_response):
        seen.append(environ)
        start_response("200 OK", [])
        return []

    environ = make_environ()
    before = dict(environ)
    get(DeferMiddleware(app), environ=environ)
    assert seen[0] is environ
    more = {"wsgi_defer.scope", "wsgi.response_finished"}
    assert set(environ) - set(before) == more


def test_start_response_goes_through_at_once():
    """Same arguments, same exc_info, and the server's own write() comes back."""
    calls = []

    def server_write(data):
        calls.append(data)

    def start_response(*args):
        calls.append(args)
        return server_write

    def app(environ, start_response):
        headers = [("X", "1")]
        write = start_response("200 OK", headers)
        assert calls[-1][1] is headers
        write(b"written")
        info = (ValueError, ValueError(), None)
        assert start_response("500 Oops", headers, info) is server_write
        assert calls[-1][2] is info
        return []

    DeferMiddleware(app)(make_environ(), start_response)
    assert [call[0] if isinstance(call, tuple) else call for call in calls] == [
        "200 OK",
        b"written",
        "500 Oops",
    ]
    assert len(calls[0]) == 2


def test_write_with_something_deferred(ran):
    """write() works, before and after the response was held."""

    def app(environ, start_response):
        defer(ran.append, 1)
        write = start_response("200 OK", [])
        write(b"a")
        write(b"b")
        return [b"c"]

    reply = get(DeferMiddleware(app))
    assert reply.body == b"abc"
    assert reply.headers == []
    assert ran == [1]


def test_iteration_is_one_to_one():
    """Nothing is read ahead, nothing is buffered, empty items are kept."""
    events = []

    def body():
        for item in (b"1", b"", b"2"):
            events.append(item)
            yield item

    def app(environ, start_response):
        start_response("200 OK", [])
        return body()

    for item in DeferMiddleware(app)(make_environ(), lambda status, headers: None):
        events.append(("sent", item))
    assert events == [
        b"1", ("sent", b"1"), b"", ("sent", b""), b"2", ("sent", b"2"),
    ]  # fmt: skip


def test_iter_is_idempotent():
    """Calling iter() again goes on, it does not start again."""
    body = wrap(iter([b"1", b"2", b"3"]))(make_environ(), lambda status, headers: None)
    assert next(iter(body)) == b"1"
    assert next(body) == b"2"
    assert list(iter(iter(body))) == [b"3"]
    assert list(body) == []


def test_iter_is_called_once_and_late():
    """Not before the server asks for it, so its errors come from there."""
    calls = []

    class Body:
        def __iter__(self):
            calls.append("iter")
            raise LookupError

    body = wrap(Body())(make_environ(), lambda status, headers: None)
    assert calls == []
    with pytest.raises(LookupError):
        next(iter(body))
    body.close()
    assert calls == ["iter"]


def test_a_sized_body_keeps_its_length(ran):
    """Servers make a Content-Length of it; it can be iterated again."""

    class Sized:
        items = (b"1", b"2")

        def __len__(self):
            return 2

        def __iter__(self):
            for item in self.items:
                defer(ran.append, item)
                yield item

        def __getitem__(self, index):
            return self.items[index]

    body = wrap(Sized())(make_environ(), lambda status, headers: None)
    assert len(body) == 2
    assert body[1] == b"2"
    assert body.items == (b"1", b"2")
    assert not hasattr(body, "_private")
    assert list(body) == list(body) == [b"1", b"2"]
    body.close()
    assert ran == [b"1", b"2"] * 2


def test_an_unsized_body_gains_no_length():
    """gevent would announce a length of zero."""
    for body in (iter([b"1"]), (item for item in [b"1"])):
        body = wrap(body)(make_environ(), lambda status, headers: None)
        assert not hasattr(body, "__len__")
        body.close()


def test_other_attributes_show_through():
    """What a framework's response offers beside its items is still there."""

    class Response:
        status_code = 200
        _private = 1

        def __iter__(self):
            return iter([b"1"])

    body = wrap(Response())(make_environ(), lambda status, headers: None)
    assert body.status_code == 200
    assert not hasattr(body, "_private")
    assert not hasattr(body, "missing")
    body.close()
    assert body.status_code == 200
    body.close = None  # as some middlewares do


@pytest.mark.parametrize("deferred", [False, True])
def test_close_is_called_once(deferred, ran):
    """Also if the client leaves, and also if it calls itself."""

    class Body:
        def __iter__(self):
            yield b"1"
            yield b"2"

        def close(self):
            ran.append("close")
            outer[0].close()

    def app(environ, start_response):
        if deferred:
            defer(int)
        start_response("200 OK", [])
        return Body()

    for read in (0, 1, 3):
        outer = [DeferMiddleware(app)(make_environ(), lambda status, headers: None)]
        steps = iter(outer[0])
        for _ in range(read):
            next(steps, None)
        outer[0].close()
        outer[0].close()
    assert ran == ["close"] * 3


def test_a_generator_is_closed_by_close(ran):
    """Its finally clause runs when the client leaves, before the calls."""

    def app(environ, start_response):
        start_response("200 OK", [])
        defer(ran.append, "call")
        try:
            yield b"1"
            yield b"2"
        finally:
            ran.append("finally")

    get(DeferMiddleware(app), stop_after=1)
    assert ran == ["finally", "call"]


def test_closed_by_its_own_step(ran):
    """A body that closes its response while it runs ends it, without a loop."""

    class Body:
        def __iter__(self):
            yield b"1"
            bodies[0].close()
            yield b"2"

    def app(environ, start_response):
        start_response("200 OK", [])
        defer(ran.append, "call")
        return Body()

    bodies = [DeferMiddleware(app)(make_environ(), lambda status, headers: None)]
    assert list(bodies[0]) == [b"1", b"2"]
    assert ran == ["call"]


def test_a_second_start_response_is_the_servers_to_judge():
    """Without exc_info, and after something was deferred, the server refuses it."""

    def app(environ, start_response):
        start_response("200 OK", [])
        defer(int)
        start_response("404 No", [])
        return []

    with pytest.raises(AssertionError, match="already set"):
        get(DeferMiddleware(app))


def test_exceptions_come_out_where_they_would():
    """Of the app, of a step, of close(): same object, same place."""
    error = LookupError()

    def raising_app(environ, start_response):
        raise error

    def raising_step(environ, start_response):
        start_response("200 OK", [])
        yield b"1"
        raise error

    with pytest.raises(LookupError) as caught:
        DeferMiddleware(raising_app)(make_environ(), lambda status, headers: None)
    assert caught.value is error

    body = DeferMiddleware(raising_step)(make_environ(), lambda status, headers: None)
    steps = iter(body)
    assert next(steps) == b"1"
    with pytest.raises(LookupError) as caught:
        next(steps)
    assert caught.value is error
    body.close()


def body_list(ran):
    return [b"1"]


def body_generator(ran):
    yield b"1"
    yield b"2"


def body_iterator(ran):
    return iter([b"1", b"2"])


@pytest.mark.parametrize("make_body", [body_list, body_generator, body_iterator])
@pytest.mark.parametrize("deferred", [False, True])
def test_nothing_is_referenced_afterwards(make_body, deferred):
    """Reference counting alone frees the request, without the garbage collector."""

    class Thing:
        pass

    things = []

    def app(environ, start_response):
        thing = Thing()
        things.append(weakref.ref(thing))
        environ["thing"] = thing
        if deferred:
            defer(lambda: thing)
        start_response("200 OK", [])
        return make_body(None)

    wrapped = DeferMiddleware(app)
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            get(wrapped)
        assert [ref() for ref in things] == [None] * 3
    finally:
        gc.enable()


def test_a_kept_handle_keeps_nothing_alive():
    """The app may keep a call; its arguments and context go when it has run."""

    class Thing:
        pass

    handles, things = [], []

    def app(environ, start_response):
        thing = Thing()
        things.append(weakref.ref(thing))
        handles.append(defer(id, thing))
        start_response("200 OK", [])
        return []

    get(DeferMiddleware(app))
    gc.collect()
    assert things[0]() is None
    assert not handles[0].pending


def lazy(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    defer(int)
    yield b"1"
    yield b"2"


def plain(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"1", b"2"]


def eager(environ, start_response):
    defer(int)
    return plain(environ, start_response)


def writing(environ, start_response):
    defer(int)
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    write(b"1")
    return [b"2"]


def empty(environ, start_response):
    defer(int)
    start_response("204 No Content", [])
    return []


def file(environ, start_response):
    defer(int)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return environ["wsgi.file_wrapper"](io.BytesIO(b"12"))


@pytest.mark.parametrize("app", [lazy, plain, eager, writing, empty, file])
@pytest.mark.parametrize("stop", [None, 1])
def test_the_validator_is_content(app, stop):
    """wsgiref.validate has no objection, around it and under it."""
    environ = make_environ(
        **{"wsgi.file_wrapper": FileWrapper, "QUERY_STRING": "", "SERVER_NAME": "x"}
    )
    stack = validator(DeferMiddleware(validator(app)))
    reply = get(stack, environ=environ, stop_after=stop)
    if app in (file, writing):  # in one block; the other one was written
        stop = None
    assert reply.body == (b"" if app is empty else b"12")[:stop]


@pytest.mark.parametrize(
    ("status", "headers", "method", "body", "length"),
    [
        ("200 OK", [], "GET", [b"12", b"3"], "3"),
        ("200 OK", [], "GET", (), "0"),
        ("404 No", [], "POST", (b"12",), "2"),
        ("200 OK", [("content-length", "7")], "GET", [b"1"], None),
        ("200 OK", [("Transfer-Encoding", "chunked")], "GET", [b"1"], None),
        ("200 OK", [], "HEAD", [], None),
        ("204 No Content", [], "GET", [], None),
        ("304 Not Modified", [], "GET", [], None),
        ("200 OK", [], "GET", ["text"], None),
        ("200 OK", [], "GET", [3], None),
    ],
)
def test_content_length_of_a_finished_body(status, headers, method, body, length):
    """With something deferred, it gets one if it has none and may have one."""

    def app(environ, start_response):
        defer(int)
        start_response(status, headers)
        return body

    reply = Reply()
    environ = make_environ(REQUEST_METHOD=method)
    DeferMiddleware(app)(environ, reply.start_response).close()
    added = [value for name, value in reply.headers if name == "Content-Length"]
    assert added == ([length] if length else [])
    assert len(reply.headers) == len(headers) + len(added)


@pytest.mark.parametrize("garbage", [None, "text", 3])
def test_garbage_with_something_deferred(ran, garbage):
    """The server gets the garbage, the calls see a failure, none is lost."""

    def app(environ, start_response):
        start_response("200 OK", [])
        defer(ran.append, "success")
        defer(ran.append, "failure").on_failure()
        return garbage

    result = DeferMiddleware(app)(make_environ(), lambda status, headers: None)
    assert result is garbage
    background.join()
    assert ran == ["failure"]


def test_no_start_response(ran):
    """An app that never starts a response did not succeed."""

    def app(environ, start_response):
        defer(ran.append, "success")
        defer(ran.append, "failure").on_failure()
        return [b""]

    get(DeferMiddleware(app))
    assert ran == ["failure"]


@pytest.mark.parametrize("kind", ["list", "generator", "late", "file"])
@pytest.mark.parametrize("stop", [None, 1])
def test_delivered_inside_an_except_block(ran, kind, stop):
    """What is being handled around the request is not its failure."""

    def look():
        defer(int).when(lambda outcome: ran.append(outcome.delivered))

    def late():
        yield b"1"
        look()
        yield b"2"

    def app(environ, start_response):
        start_response("200 OK", [])
        if kind == "late":
            return late()
        look()
        if kind == "file":
            return environ["wsgi.file_wrapper"](io.BytesIO(b"1" * 20000))
        return [b"1", b"2"] if kind == "list" else iter([b"1", b"2"])

    environ = make_environ(**{"wsgi.file_wrapper": FileWrapper})
    try:
        raise ValueError
    except ValueError:
        get(DeferMiddleware(app), environ=environ, stop_after=stop)
    if kind == "late" and stop:
        assert ran == []
    else:
        assert ran == [stop is None]


def test_delivered_of_a_file_whose_close_fails(ran):
    """The client left, and then the app's close() raised, too."""

    class File(io.BytesIO):
        def close(self):
            if not self.closed:
                super().close()
                raise LookupError

    def app(environ, start_response):
        start_response("200 OK", [])
        defer(int).when(lambda outcome: ran.append(outcome.delivered))
        return environ["wsgi.file_wrapper"](File(b"1" * 20000))

    environ = make_environ(**{"wsgi.file_wrapper": FileWrapper})
    with pytest.raises(LookupError):
        get(DeferMiddleware(app), environ=environ, stop_after=1)
    background.join()
    assert ran == [False]


def test_the_status_is_what_the_server_has_taken(ran):
    """A start_response that the server refuses, and the app swallows, is none."""

    def app(environ, start_response):
        start_response("200 OK", [])
        with pytest.raises(AssertionError):
            start_response("500 Oops", [])
        defer(ran.append, 1)
        return [b"1"]

    assert get(DeferMiddleware(app)).status == "200 OK"
    assert ran == [1]


def test_cleanup_of_an_iterator_is_inside_the_request(ran):
    """An __iter__ that is a generator may defer in its finally clause."""

    class Body:
        def __iter__(self):
            try:
                yield b"1"
                yield b"2"
            finally:
                defer(ran.append, "call")

    def app(environ, start_response):
        start_response("200 OK", [])
        return Body()

    for stop in (None, 1):
        get(DeferMiddleware(app), stop_after=stop)
    assert ran == ["call"] * 2


def test_a_failed_held_call_leaves_no_cycle(monkeypatch):
    """The 503 and its exception go by reference counting alone."""
    monkeypatch.setattr(logging.getLogger("wsgi_defer"), "disabled", True)

    class Thing:
        pass

    things = []

    def fail():
        thing = Thing()
        things.append(weakref.ref(thing))
        raise ValueError(thing)

    def app(environ, start_response):
        before_response(fail)
        start_response("200 OK", [])
        return []

    gc.collect()
    gc.disable()
    try:
        get(DeferMiddleware(app))
        assert things[0]() is None
    finally:
        gc.enable()


def test_bad_options():
    """Wrong arguments of the constructor are told at once."""
    with pytest.raises(TypeError, match="WSGI app"):
        DeferMiddleware("myapp:app")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1"):
        DeferMiddleware(plain, max_calls=0)


@pytest.mark.parametrize("status", [None, 200, b"200 OK"])
def test_a_status_that_is_none(status):
    """The server judges it at once, as it does with nothing deferred."""

    def app(environ, start_response):
        defer(print)
        with pytest.raises(AssertionError, match="no status"):
            start_response(status, [])
        start_response("200 OK", [])
        return [b""]

    def judge(status, headers):
        assert isinstance(status, str), "no status"

    assert b"".join(DeferMiddleware(app)(make_environ(), judge)) == b""
