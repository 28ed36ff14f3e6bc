"""How the end of the stream is announced, with sockets that only take notes."""

from __future__ import annotations

import contextlib
import io
import socket
import sys
import threading
import types
import wsgiref.util
from functools import partial

import pytest

from wsgi_defer import DeferMiddleware, background, defer
from wsgi_defer._servers import detect, half_close, uwsgi
from wsgi_defer._servers.detect import server_of
from wsgi_defer._servers.gunicorn import GUNICORN
from wsgi_defer._servers.handover import run_drains
from wsgi_defer._servers.wsgiref import WSGIREF

from ...helpers.client import get, make_environ
from ...helpers.orders import handle_abort
from ...helpers.slots import handed_over


class Socket:
    """It notes shutdown(), and is closed after ``open_for`` looks."""

    def __init__(self, open_for=0, error=None):
        self.shut = []
        self.looks = open_for
        self.error = error

    def shutdown(self, how):
        self.shut.append(how)
        if self.error is not None:
            raise self.error

    def fileno(self):
        self.looks -= 1
        return 3 if self.looks >= 0 else -1


def gunicorn(sock, **more):
    return {
        "SERVER_PROTOCOL": "HTTP/1.1",
        "gunicorn.socket": sock,
        "wsgi.multithread": False,
        **more,
    }


def frame(module, name):
    """A function of that module and name, which calls what it is given."""
    space = {"__name__": module}
    exec(f"def {name}(function, *args): return function(*args)", space)
    return space[name]


in_gunicorn = frame("gunicorn.workers.sync", "handle_request")


def in_werkzeug(function, *args, headers_sent=()):
    """Call it as werkzeug does, which has sent the head unless that is None."""
    space = {"__name__": "werkzeug.serving"}
    exec("def execute(headers_sent, function, *args): return function(*args)", space)
    return space["execute"](headers_sent, function, *args)


def of_gunicorn(headers_sent=True, length=None, sent=0):
    """The ``start_response`` of a gunicorn that has sent the head, or has not."""
    from gunicorn.http.wsgi import Response

    response = Response.__new__(Response)
    response.headers_sent = headers_sent
    response.response_length, response.sent = length, sent
    return response.start_response


def in_gunicorn_of(start_response):
    """As ``in_gunicorn``, with the response where its workers have it."""
    space = {"__name__": "gunicorn.workers.sync"}
    exec("def handle_request(resp, function, *args): return function(*args)", space)
    return partial(space["handle_request"], start_response.__self__)


def ours(function):
    """Make it look like a body's ``close()``, to those who look at the stack."""
    code = function.__code__.replace(co_name="close")
    return types.FunctionType(code, globals())


@ours
def end_stream(environ, start_response):
    """Whether the server could give the client the end of the stream."""
    return server_of(environ, start_response).end_stream(environ, start_response)


@ours
def would_wait(environ, start_response):
    """Whether a client would wait for the calls if they ran inside ``close()``."""
    server = server_of(environ, start_response)
    ended = server.end_stream(environ, start_response)
    return not ended and server.would_wait(environ)


def after_error_page(environ):
    """Wait as the background thread does when the app has raised."""
    server_of(environ, print).after_error_page(environ)()


def test_gunicorn_sync_and_werkzeug_are_half_closed():
    """These have said Connection: close."""
    in_gunicorn(end_stream, gunicorn(sync := Socket()), of_gunicorn())
    environ = {"SERVER_PROTOCOL": "HTTP/1.0", "werkzeug.socket": (dev := Socket())}
    in_werkzeug(end_stream, environ, print)
    assert sync.shut == dev.shut == [socket.SHUT_WR]


@pytest.mark.parametrize(
    ("frames", "start_response", "out"),
    [
        ([], of_gunicorn(), True),
        ([("app", "close"), ("timer", "close")], of_gunicorn(), True),
        ([("app", "steps")], of_gunicorn(), False),  # closes what it has read
        ([("app", "close"), ("timer", "wrapper")], of_gunicorn(), True),
        ([], of_gunicorn(headers_sent=False), False),  # has collected the body
    ],
)
def test_a_middleware_outside(frames, start_response, out):
    """Only if the server closes the body, nothing more is to be sent."""
    sock = Socket()
    outside = [frame(*each) for each in frames]
    waits = in_gunicorn(*outside, would_wait, gunicorn(sock), start_response)
    assert sock.shut == [socket.SHUT_WR] * out
    assert waits is not out


@pytest.mark.parametrize(
    "more",
    [
        {"wsgi.multithread": True},  # gthread and gevent keep connections open
        {"SERVER_PROTOCOL": "HTTP/2"},
        {"SERVER_PROTOCOL": "HTTP/2.0"},
    ],
)
def test_no_other_connection_is_touched(more):
    """A kept-alive connection or an HTTP/2 stream would break."""
    in_gunicorn(end_stream, gunicorn(sock := Socket(), **more), of_gunicorn())
    assert sock.shut == []


def test_an_unknown_server():
    """There is nothing to do."""
    assert not end_stream({}, print)
    after_error_page({})
    environ = {"SERVER_PROTOCOL": "HTTP/1.1", "wsgi.multithread": False}
    assert not end_stream(environ, print)
    assert would_wait(gunicorn("socket"), of_gunicorn())


@pytest.mark.parametrize("error", [OSError(107, "not connected"), ValueError("odd")])
def test_a_client_that_is_gone(error):
    """Its error stays here."""
    sock = Socket(error=error)
    in_gunicorn(end_stream, gunicorn(sock), of_gunicorn())
    assert sock.shut == [socket.SHUT_WR]


def test_closing():
    """It looks until the server has closed. Not at a socket that others share."""
    sock = Socket(open_for=3)
    after_error_page(gunicorn(sock))
    assert sock.looks == -1
    after_error_page(gunicorn(sock := Socket(), SERVER_PROTOCOL="HTTP/2"))
    assert sock.looks == 0


def test_many_that_do_not_close(monkeypatch, ran):
    """Each is waited for CLOSE_WAIT seconds, all of them counted from their error."""
    now, slept = [100.0], []

    def sleep(seconds):
        slept.append(seconds)
        now[0] += 1.0

    monkeypatch.setattr(half_close, "monotonic", lambda: now[0])
    monkeypatch.setattr(half_close, "time", types.SimpleNamespace(sleep=sleep))
    app = DeferMiddleware(deferring_app(ran, raises=True))
    environs = [gunicorn(Socket(open_for=10**9)) for _ in range(5)]
    drains = []
    monkeypatch.setattr(background, "submit", lambda *drain: drains.append(drain))
    for environ in environs:
        with pytest.raises(LookupError):
            get(app, environ=make_environ(**environ))
    for _, _, ready in drains:
        ready()
    assert len(slept) == half_close.CLOSE_WAIT
    run_drains(drains)
    assert ran == [MAIN] * 5


@pytest.mark.parametrize(
    ("software", "starts"), [("Cheroot/11.1 Server", 1), ("SomeServer/1.0", 0)]
)
def test_a_head_for_cheroot(ran, software, starts):
    """It fails without one before it closes a body that raised."""
    heads = []

    def app(environ, start_response):
        defer(ran.append, 1).always()
        start_response("200 OK", [])
        raise LookupError
        yield

    environ = make_environ(SERVER_SOFTWARE=software)
    body = DeferMiddleware(app)(environ, lambda *args: heads.append(args))
    with pytest.raises(LookupError):
        next(iter(body))
    assert len(heads) == starts
    body.close()
    background.join()
    assert ran == [1]


def test_forget_headers():
    """gunicorn's response forgets them; other servers replace them by themselves."""
    from gunicorn.http.wsgi import Response

    response = Response.__new__(Response)
    response.headers = [("Content-Length", "5")]
    response.response_length = 5
    server = server_of(gunicorn("socket"), response.start_response)
    server.forget_headers(response.start_response)
    assert (response.headers, response.response_length) == ([], None)
    server.forget_headers(lambda status, headers: None)
    server_of({}, response.start_response).forget_headers(print)


def waitress():
    return {"waitress.client_disconnected": None, "SERVER_PROTOCOL": "HTTP/1.1"}


@pytest.mark.parametrize(
    ("environ", "waits"),
    [
        ({}, False),
        ({"SERVER_SOFTWARE": "SomeServer/1.0"}, False),
        ({"asgi.scope": {}}, False),
        (gunicorn("socket"), True),  # nobody says that the head is out
        (gunicorn(None, **{"wsgi.multithread": True}), True),
        (gunicorn(None, SERVER_PROTOCOL="HTTP/2.0"), True),
        ({"waitress.client_disconnected": None}, True),
        ({"SERVER_SOFTWARE": "Cheroot/11.1.2 Server"}, True),
        ({"SERVER_SOFTWARE": "CherryPy/18 Cheroot/11.1 Server"}, True),
        ({"SERVER_SOFTWARE": "gevent/26.0 Python/3.11"}, True),
        ({"SERVER_SOFTWARE": "WSGIServer/0.2"}, True),
        ({"SERVER_SOFTWARE": "Granian"}, True),
        ({"mod_wsgi.version": (5, 0)}, True),
        ({"uwsgi.version": b"2.0"}, True),
        ({"SERVER_SOFTWARE": "Werkzeug/3.1", "werkzeug.socket": None}, False),
    ],
)
def test_where_somebody_would_wait(environ, waits):
    """Known servers by what they put into the environ; unknown ones, no."""
    assert would_wait(environ, lambda status, headers: None) is waits


def test_the_head_that_is_out():
    """gunicorn and werkzeug can be asked."""
    ask = would_wait
    environ = {"SERVER_PROTOCOL": "HTTP/1.1", "werkzeug.socket": Socket()}
    for sent in (True, False):
        assert in_gunicorn(ask, gunicorn(Socket()), of_gunicorn(sent)) is not sent
        head = () if sent else None
        assert in_werkzeug(ask, environ, print, headers_sent=head) is not sent
    assert ask(environ, print)


@pytest.mark.parametrize("sent", [True, False])
def test_another_start_response_in_place_of_the_servers(sent):
    """Sentry and New Relic bring theirs; gunicorn's own frame has the response."""

    def theirs(status, headers):
        raise AssertionError

    within = in_gunicorn_of(of_gunicorn(sent))
    for start_response in (theirs, partial(theirs, "200 OK"), ours, Socket().fileno):
        assert within(would_wait, gunicorn(Socket()), start_response) is not sent
    assert in_gunicorn(would_wait, gunicorn(Socket()), theirs)  # another release


@pytest.mark.parametrize(
    ("length", "sent", "out"), [(5, 5, True), (5, 4, False), (None, 5, False)]
)
def test_closed_by_a_generator_outside(length, sent, out):
    """New Relic's closes the body before gunicorn does. All is out if its length is."""
    steps, sock = frame("newrelic", "__iter__"), Socket()
    head = of_gunicorn(True, length, sent)
    assert in_gunicorn(steps, would_wait, gunicorn(sock), head) is not out
    assert sock.shut == [socket.SHUT_WR] * out


def test_the_headers_of_a_503_replace_those_of_gunicorn():
    """Also through another ``start_response``."""
    head = of_gunicorn()
    head.__self__.headers = [("X", "1")]
    forget = GUNICORN.forget_headers
    in_gunicorn_of(head)(forget, print)
    assert head.__self__.headers == []
    forget(print)  # nobody is there


def test_a_view_that_exits_by_itself(ran):
    """That is its error, even when it has come up to gunicorn, and no order to stop."""

    def app(environ, start_response):
        defer(ran.append, 1).always()
        raise SystemExit("by the view")

    environ = make_environ(**gunicorn(Socket()))
    with handed_over() as drains:
        with pytest.raises(SystemExit):
            in_gunicorn(DeferMiddleware(app), environ, of_gunicorn())
        run_drains(drains)
    assert ran == [1]


@pytest.mark.parametrize(
    ("more", "goes_on"),
    [
        ({"wsgi.multiprocess": True, "wsgi.multithread": False}, False),
        ({"wsgi.multiprocess": True, "wsgi.multithread": True}, True),
        ({"wsgi.multiprocess": False, "wsgi.multithread": False}, True),
    ],
)
def test_a_process_for_each_request(ran, more, goes_on):
    """werkzeug's ends with it, so a thread of it would run nothing."""

    def app(environ, start_response):
        defer(lambda: ran.append(threading.current_thread())).always()
        raise LookupError

    environ = make_environ(**more, **{"werkzeug.socket": (sock := Socket())})
    with pytest.raises(LookupError):
        DeferMiddleware(app, inline=False)(environ, print)
    assert background.join(10)
    assert [thread is threading.current_thread() for thread in ran] == [not goes_on]
    assert sock.shut == []  # the error page is still to be sent


def test_bjoern_is_known_by_its_start_response():
    """It puts nothing of its own into the environ."""

    class start_response:  # noqa: N801
        pass

    assert would_wait({}, start_response())


def deferring_app(ran, raises=False):
    def app(environ, start_response):
        start_response("200 OK", [])
        defer(lambda: ran.append(threading.current_thread().name)).always()
        if raises:
            raise LookupError
        return [b"1"]

    return app


MAIN, BACKGROUND = "MainThread", "wsgi_defer"


@pytest.mark.parametrize(
    ("more", "inline", "thread"),
    [
        ({}, None, MAIN),
        ({}, True, MAIN),
        ({}, False, BACKGROUND),
        (waitress(), None, BACKGROUND),
        (waitress(), True, MAIN),
    ],
)
def test_inline(ran, more, inline, thread):
    """The server decides where the calls run, unless the app does."""
    app = DeferMiddleware(deferring_app(ran), inline=inline)
    get(app, environ=make_environ(**more))
    background.join()
    assert ran == [thread]


@pytest.mark.parametrize("raises", [False, True])
def test_handed_over(ran, raises):
    """A worker class takes the calls, and runs them when the connection is free."""
    app = DeferMiddleware(deferring_app(ran, raises))
    with handed_over() as drains, contextlib.suppress(LookupError):
        get(app, environ=make_environ(**gunicorn(Socket())))
    assert ran == []
    assert len(drains) == 1
    run_drains(drains)
    assert ran == [MAIN]


def test_not_handed_over(ran):
    """Not under HTTP/2, where one hand-over is for many streams; not if the app says
    so; and not what a view asks of another app, on no socket at all."""
    app = DeferMiddleware(deferring_app(ran))
    with handed_over() as drains:
        get(app, environ=make_environ(**gunicorn(None, SERVER_PROTOCOL="HTTP/2.0")))
        get(app, environ=make_environ())
        app = DeferMiddleware(deferring_app(ran), inline=False)
        get(app, environ=make_environ(**gunicorn(Socket())))
    background.join()
    assert sorted(ran) == [MAIN, BACKGROUND, BACKGROUND]
    assert drains == []


def test_the_order_to_stop_names_all_calls(caplog):
    """What was handed over and not begun is lost with the rest, by name."""

    def app(environ, start_response):
        start_response("200 OK", [])
        defer(handle_abort)
        defer(print).named(environ["PATH_INFO"])
        return [b"1"]

    with handed_over() as drains:
        for path in ("/one", "/two"):
            environ = make_environ(PATH_INFO=path, **gunicorn(Socket()))
            get(DeferMiddleware(app), environ=environ)
    with pytest.raises(SystemExit):
        run_drains(drains)
    assert "/one lost: the process was told to stop" in caplog.text
    assert "/two lost: the process was told to stop" in caplog.text


@pytest.fixture
def uwsgi_module(monkeypatch):
    """The module that uWSGI has inside itself."""
    module = types.ModuleType("uwsgi")
    module.opt = {"http-socket": b":8000"}
    monkeypatch.setitem(sys.modules, "uwsgi", module)
    hook = uwsgi.Hook()
    monkeypatch.setattr(uwsgi, "HOOK", hook)
    monkeypatch.setattr(detect, "HOOK", hook)
    return module


def test_uwsgi(uwsgi_module, ran):
    """The calls run in its after_req_hook, and after the one that was there."""
    uwsgi_module.after_req_hook = lambda: ran.append("theirs")
    app = DeferMiddleware(deferring_app(ran))
    DeferMiddleware(app)  # a second one installs no second hook
    environ = make_environ(**{"uwsgi.version": b"2.0"})
    get(app, environ=dict(environ))
    background.join()
    assert ran == [BACKGROUND]  # nobody has seen the hook called, so far
    uwsgi_module.after_req_hook()
    get(app, environ=environ)
    environ.clear()  # as uWSGI does
    assert ran == [BACKGROUND, "theirs"]
    uwsgi_module.after_req_hook()
    uwsgi_module.after_req_hook()
    assert ran == [BACKGROUND, "theirs", "theirs", MAIN, "theirs"]


@pytest.mark.parametrize("option", ["http11-socket", b"http11-socket"])
def test_uwsgi_that_keeps_connections(uwsgi_module, ran, option):
    """There the hook would hold up the next request, so it is not used."""
    uwsgi_module.opt = {option: b":8000"}
    app = DeferMiddleware(deferring_app(ran))
    get(app, environ=make_environ(**{"uwsgi.version": b"2.0"}))
    background.join()
    assert ran == [BACKGROUND]
    assert not hasattr(uwsgi_module, "after_req_hook")


def test_uwsgis_file_stays_what_it_is(uwsgi_module, ran):
    """Its file wrapper is a function that returns the file, which it then knows again
    by identity."""
    file = open(__file__, "rb")  # noqa: SIM115

    def app(environ, start_response):
        start_response("200 OK", [])
        defer(ran.append, 1)
        return environ["wsgi.file_wrapper"](file)

    environ = make_environ(
        **{"uwsgi.version": b"2.0", "wsgi.file_wrapper": lambda file: file}
    )
    body = DeferMiddleware(app)(environ, lambda status, headers: None)
    assert body is file
    body.close()
    assert file.closed
    background.join()
    assert ran == [1]
    uwsgi_module.after_req_hook()  # with none before it, and with nothing to run


class FileWrapper:
    """A server's file wrapper as in C: no attributes, and the file is hidden."""

    __slots__ = ("_file", "_size")
    __module__ = "builtins"

    def __init__(self, file, size=8192):
        self._file, self._size = file, size

    def __iter__(self):
        return self

    def __next__(self):
        if data := self._file.read(self._size):
            return data
        raise StopIteration

    def close(self):
        if hasattr(self._file, "close"):
            self._file.close()


class ModWsgiFileWrapper(FileWrapper):
    """mod_wsgi's shows the file."""

    __slots__ = ()
    filelike = property(lambda self: self._file)
    blksize = property(lambda self: self._size)


@pytest.fixture(params=["bjoern", "mod_wsgi"])
def in_c(request, monkeypatch):
    """An environ of each server whose file wrapper is in C."""
    if request.param == "mod_wsgi":
        more = {"wsgi.file_wrapper": ModWsgiFileWrapper, "mod_wsgi.version": (4, 9)}
        return make_environ(**more)
    monkeypatch.setitem(sys.modules, "_bjoern", types.ModuleType("_bjoern"))
    return make_environ(**{"wsgi.file_wrapper": FileWrapper})


class File(io.BytesIO):
    """A file that counts its closings, with a descriptor or without one."""

    def __init__(self, data=b"12", descriptor=7):
        super().__init__(data)
        self.closings, self.descriptor = 0, descriptor

    def fileno(self):
        if self.descriptor is None:
            raise io.UnsupportedOperation("fileno")
        return self.descriptor

    def close(self):
        self.closings += 1
        super().close()


def file_app(ran, file, wrap=lambda wrapper, file: wrapper(file, 1), length="2"):
    """An app that returns the file, and defers unless ``ran`` is None."""

    def app(environ, start_response):
        if ran is not None:
            defer(lambda: None).when(lambda outcome: ran.append(outcome.delivered))
        start_response("200 OK", [("Content-Length", length)] if length else [])
        return wrap(environ["wsgi.file_wrapper"], file)

    return app


def start(app, environ):
    """The body that the server gets."""
    return DeferMiddleware(app)(environ, lambda status, headers: None)


def test_a_file_wrapper_in_c(in_c, ran):
    """It is one of the server's class, with the file's descriptor, and our end."""
    kind, file = in_c["wsgi.file_wrapper"], File()
    body = start(file_app(ran, file), in_c)
    assert type(body) is kind
    assert (body._file.fileno(), body._file.tell(), body._size) == (7, 0, 1)
    body.close()
    body.close()
    background.join()
    assert (file.closings, ran) == (1, [True])


def test_a_file_wrapper_in_c_with_nothing_deferred(in_c):
    """The app and the server have the very objects that they have without us."""
    kind, file = in_c["wsgi.file_wrapper"], File()
    made = []

    def wrap(wrapper, file):
        made.append(wrapper(file))
        assert type(made[0]) is kind
        assert isinstance(made[0], wrapper)
        assert not isinstance(file, wrapper)
        assert wrapper.__name__ == kind.__name__
        return made[0]

    body = start(file_app(None, file, wrap), in_c)
    assert body is made[0]
    assert body._file is file


def test_bjoerns_file_without_a_length(in_c, ran):
    """bjoern would send it without any framing; mod_wsgi asks the file."""
    kind = in_c["wsgi.file_wrapper"]
    body = start(file_app(ran, File(), length=None), in_c)
    assert (type(body) is kind) is ("mod_wsgi.version" in in_c)
    assert b"".join(body) == b"12"
    body.close()
    background.join()
    assert ran == [True]


@pytest.mark.parametrize(("stop_after", "delivered"), [(None, True), (1, False)])
@pytest.mark.parametrize("descriptor", [7, None])
def test_a_file_wrapper_in_c_that_is_read(in_c, ran, descriptor, stop_after, delivered):
    """As servers do if the file has no descriptor, or the response no length."""
    file = File(descriptor=descriptor)
    app = DeferMiddleware(file_app(ran, file))
    reply = get(app, environ=in_c, stop_after=stop_after)
    background.join()
    assert reply.chunks == [b"1", b"2"][:stop_after]
    assert (file.closings, ran) == (1, [delivered])


def wrapped_again(wrapper, file):
    """What a framework does that sends a part of the file."""
    inside = wrapper(file, 1)
    try:
        yield from inside
    finally:
        inside.close()


def not_the_last(wrapper, file):
    """An app that changes its mind, and again."""
    body = wrapper(file, 1)
    wrapper(File())
    return body


@pytest.mark.parametrize("wrap", [wrapped_again, not_the_last])
def test_a_file_wrapper_in_c_inside_another_body(in_c, ran, wrap):
    """It is read, and closed once."""
    file = File()
    reply = get(DeferMiddleware(file_app(ran, file, wrap)), environ=in_c)
    background.join()
    assert reply.body == b"12"
    assert (file.closings, ran) == (1, [True])


def test_no_other_file_wrapper_is_replaced(monkeypatch):
    """bjoern may be there and another server run, whose wrapper may be a function."""
    monkeypatch.setitem(sys.modules, "_bjoern", types.ModuleType("_bjoern"))
    for wrapper in (wsgiref.util.FileWrapper, lambda file: file, None):
        environ = make_environ(**{"wsgi.file_wrapper": wrapper})
        start(file_app(None, File(), lambda wrapper, file: [b""]), environ)
        assert environ["wsgi.file_wrapper"] is wrapper


def test_wsgiref_logs_what_close_raises(ran):
    """But not an order to stop, which is to end ``serve_forever()``."""

    class Handler:
        def handle_error(self):
            ran.append(type(sys.exc_info()[1]))

        def close(self):
            raise AssertionError

    handler = Handler()
    space = {"__name__": "wsgiref.handlers"}
    exec("def finish_response(self, function): return function({}, print)", space)
    assert not WSGIREF.end_stream({}, print)
    assert not space["finish_response"](handler, WSGIREF.end_stream)
    try:
        raise ValueError
    except ValueError:
        handler.handle_error()
    assert ran == [ValueError]
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):
            handler.handle_error()
    handler.close()
    assert ran == [ValueError]
