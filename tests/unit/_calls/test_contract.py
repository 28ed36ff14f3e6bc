"""The README's contract table, one test or more for each of its rows."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import threading

import pytest

from wsgi_defer import (
    DeferError,
    DeferMiddleware,
    NoScopeError,
    ScopeClosedError,
    TooManyCallsError,
    background,
    before_response,
    current_scope,
    defer,
    deferring,
    forget,
)

from ...helpers.client import get, make_environ, text_app
from ...helpers.orders import handle_abort


def fail():
    raise ValueError("boom")


def with_a_footer(app):
    """A middleware that adds to the body, one item at a time."""

    def middleware(environ, start_response):
        body = app(environ, start_response)
        try:
            yield from body
            yield b"footer"
        finally:
            body.close()

    return middleware


@pytest.mark.promise("S1")
@pytest.mark.parametrize("inside", [lambda app: app, with_a_footer])
@pytest.mark.parametrize("outside", [lambda app: app, with_a_footer])
def test_when(ran, inside, outside):
    """The calls run after the last item was taken and the app's close() ran, also
    through a middleware, on either side."""

    class Body:
        def __iter__(self):
            yield b"1"
            ran.append("last item")

        def close(self):
            ran.append("app's close")

    def app(environ, start_response):
        start_response("200 OK", [])
        defer(ran.append, "call")
        return Body()

    wrapped = outside(DeferMiddleware(inside(app)))
    body = wrapped(make_environ(), lambda status, headers: None)
    for item in body:
        ran.append(item)
    body.close()
    assert ran[-1] == "call"
    assert [each for each in ran if each != b"footer"] == [
        b"1", "last item", "app's close", "call",
    ]  # fmt: skip


@pytest.mark.promise("L12", "L15", "S3", "N5")
def test_order(ran):
    """First in, first out; what a running call defers comes at the end."""

    def nested():
        ran.append(1)
        defer(ran.append, 4)
        defer(deeper)

    def deeper():
        ran.append(5)
        defer(ran.append, 6)

    def view():
        defer(nested)
        defer(ran.append, 2)
        defer(ran.append, 3)

    get(DeferMiddleware(text_app(view)))
    assert ran == [1, 2, 3, 4, 5, 6]


@pytest.mark.promise("L2", "L3", "N3")
@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("200 OK", ["plain", "always", "under 500", "undone"]),
        ("302 Found", ["plain", "always", "under 500", "undone"]),
        ("399 Odd", ["plain", "always", "under 500", "undone"]),
        ("400 Bad Request", ["always", "failure", "under 500"]),
        ("403 Forbidden", ["always", "failure", "under 500"]),
        ("404 Not Found", ["always", "failure", "under 500"]),
        ("500 Internal Server Error", ["always", "failure"]),
    ],
)
def test_which(ran, status, expected):
    """The final status decides, unless an option says otherwise."""

    def view():
        defer(ran.append, "plain")
        defer(ran.append, "always").always()
        defer(ran.append, "failure").on_failure()
        defer(ran.append, "under 500").when(lambda outcome: outcome.status < 500)
        defer(ran.append, "undone").always().when(lambda outcome: outcome.ok)

    get(DeferMiddleware(text_app(view, status)))
    assert ran == expected


@pytest.mark.promise("L4")
def test_which_is_asked_at_the_end(ran):
    """The option that holds at the end counts, and the last status does."""
    calls = []

    def app(environ, start_response):
        calls.append(defer(ran.append, "plain").always())
        calls[0].on_failure()
        start_response("200 OK", [])
        try:
            raise ValueError
        except ValueError as error:
            start_response("500 Oops", [], (type(error), error, None))
        return [b""]

    get(DeferMiddleware(app))
    assert ran == ["plain"]


def test_skipped_calls_are_counted_and_logged_at_debug(ran, caplog):
    """A call that its outcome does not want is discarded, counted, logged."""
    caplog.set_level(logging.DEBUG, "wsgi_defer")
    environ = make_environ()
    app = DeferMiddleware(text_app(lambda: defer(ran.append, "secret"), "404 Nope"))
    get(app, environ=environ)
    assert environ["wsgi_defer.scope"].skipped == 1
    assert [record.levelname for record in caplog.records] == ["DEBUG"]
    assert "list.append" in caplog.text
    assert "secret" not in caplog.text
    assert ran == []


@pytest.mark.promise("L5", "L14", "L24")
def test_the_next_request(ran):
    """It has no calls of the one before: what was skipped is gone, as is what ran."""
    requests = iter([("first", "404 Not Found"), ("second", "200 OK")])

    def app(environ, start_response):
        name, status = next(requests)
        defer(ran.append, f"{name} plain")
        defer(ran.append, f"{name} always").always().named("same in both")
        assert current_scope().registered == 2
        start_response(status, [])
        return [b""]

    wrapped = DeferMiddleware(app)
    for _ in range(2):
        environ = make_environ()
        get(wrapped, environ=environ)
        assert current_scope() is None
        assert environ["wsgi_defer.scope"].pending == ()
    assert ran == ["first always", "second plain", "second always"]


@pytest.mark.promise("L13")
def test_a_call_raises(ran, caplog):
    """It is logged with name, line and traceback; the others run; nobody hears it."""

    def view():
        defer(fail)
        defer(ran.append, 1)

    environ = make_environ()
    assert get(DeferMiddleware(text_app(view)), environ=environ).body == b"hello"
    assert ran == [1]
    scope = environ["wsgi_defer.scope"]
    assert (scope.failed, scope.finished) == (1, 1)
    (record,) = caplog.records
    assert "tests.unit._calls.test_contract.fail failed" in record.getMessage()
    assert f"{__file__}:{view.__code__.co_firstlineno + 1}" in record.getMessage()
    assert record.exc_info[0] is ValueError


@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit(), BaseException()])
def test_a_call_raises_no_exception(ran, caplog, error):
    """Even these stay inside close(), and the other calls run."""

    def leave():
        raise error

    def view():
        defer(leave)
        defer(ran.append, 1)

    get(DeferMiddleware(text_app(view)))
    assert ran == [1]
    assert "leave failed" in caplog.text


def test_wrong_arguments_name_the_line(caplog):
    """The log of the TypeError names the line that deferred, not the arguments."""

    def view():
        defer(fail, "secret", key="secret")  # type: ignore[call-arg]

    get(DeferMiddleware(text_app(view)))
    (record,) = caplog.records
    assert f"{__file__}:{view.__code__.co_firstlineno + 1}" in record.getMessage()
    assert "secret" not in record.getMessage()


@pytest.mark.promise("S6", "N12")
def test_the_client_left(ran):
    """The calls still run, and know that the response was not delivered."""

    def app(environ, start_response):
        start_response("200 OK", [])
        defer(ran.append, "ran")
        defer(fail).when(lambda outcome: ran.append(outcome.delivered))
        return iter([b"1", b"2", b"3"])

    get(DeferMiddleware(app), stop_after=2)
    assert ran == ["ran", False]


@pytest.mark.promise("L6", "L8")
def test_same_name_twice(ran):
    """Of the calls of one name, the last registered runs, at its own place. Calls
    without a name have none in common."""

    def view():
        defer(ran.append, "a1").named("a")
        defer(ran.append, "b")
        defer(ran.append, "b")
        defer(ran.append, "a2").named("a")
        defer(ran.append, "c")

    get(DeferMiddleware(text_app(view)))
    assert ran == ["b", "b", "a2", "c"]


@pytest.mark.promise("L7")
def test_same_name_given_late(ran):
    """The name at run time counts; the last registered wins, not the last named."""

    def view():
        first = defer(ran.append, 1)
        defer(ran.append, 2).named("x")
        first.named("x")

    get(DeferMiddleware(text_app(view)))
    assert ran == [2]


@pytest.mark.promise("L9", "S13")
def test_cancel_and_forget(ran):
    """A cancelled call does not run, nor does one whose name is forgotten."""

    def view():
        defer(ran.append, 1).cancel()
        defer(ran.append, 2).named("x")
        defer(ran.append, 3).named("x").always()
        defer(ran.append, 4).named("y")
        before_response(ran.append, 5).named("x")
        forget("x")
        forget("never given")

    environ = make_environ()
    get(DeferMiddleware(text_app(view)), environ=environ)
    assert ran == [4]
    assert environ["wsgi_defer.scope"].skipped == 4


def test_cancelling_the_last_of_a_name_leaves_the_one_before(ran):
    """A cancelled call does not win by its name."""

    def view():
        defer(ran.append, 1).named("x")
        defer(ran.append, 2).named("x").cancel()

    get(DeferMiddleware(text_app(view)))
    assert ran == [1]


def test_a_call_cancels_a_later_one(ran):
    """Cancelling works during the drain, for what has not begun."""

    def view():
        calls = []
        defer(lambda: [call.cancel() for call in calls])
        calls.append(defer(ran.append, 1))
        defer(ran.append, 2)

    get(DeferMiddleware(text_app(view)))
    assert ran == [2]


@pytest.mark.promise("L16")
def test_looking_at_the_calls_while_they_run(ran):
    """It runs none of them again, and drops none that is new; what has not begun can
    still be forgotten."""

    def look(number):
        ran.append(number)
        scope = current_scope()
        waiting = [call.label for call in scope.pending]
        if number == 1:
            assert waiting == ["two", "three", "four"]
            forget("three")
            defer(look, 5).named("five")
            assert [call.label for call in scope.pending] == ["two", "four", "five"]
        assert number != 5 or waiting == []

    def view():
        for number, name in enumerate(["one", "two", "three", "four"], 1):
            defer(look, number).named(name)

    environ = make_environ()
    get(DeferMiddleware(text_app(view)), environ=environ)
    assert ran == [1, 2, 4, 5]
    assert environ["wsgi_defer.scope"].failed == 0


def test_options_return_the_call():
    """Every option chains."""
    with deferring():
        call = defer(fail)
        assert call.named("x").always().on_failure().when(bool).cancel() is call
        assert call.name == "x"
        assert not call.pending


@pytest.mark.promise("N10")
def test_context(ran):
    """A call runs in a copy of the context of its defer() line."""
    var = contextvars.ContextVar("var", default="default")

    def view():
        var.set("at defer")
        defer(lambda: (ran.append(var.get()), var.set("in the call")))
        defer(lambda: ran.append(var.get()))
        var.set("after defer")

    def isolated():
        get(DeferMiddleware(text_app(view)))
        ran.append(var.get())

    contextvars.copy_context().run(isolated)
    assert ran == ["at defer", "at defer", "after defer"]


@pytest.mark.parametrize("inline", [True, False])
def test_what_a_framework_keeps_by_thread(ran, inline):
    """It is not on the background thread, unless ``around`` binds it there; what was
    read before is there anyway."""

    @contextlib.contextmanager
    def bound():
        request.path = path.get()
        yield

    def call(copied):
        ran.append((copied, getattr(request, "path", None)))

    def view():
        request.path = "/orders"  # as the framework does
        path.set(request.path)
        defer(call, request.path)

    request, path = threading.local(), contextvars.ContextVar("path")
    get(DeferMiddleware(text_app(view), inline=inline))
    assert background.join(10)
    get(DeferMiddleware(text_app(view), inline=inline, around=bound))
    assert background.join(10)
    assert ran == [("/orders", "/orders" if inline else None), ("/orders", "/orders")]


@pytest.mark.promise("N9")
@pytest.mark.parametrize(
    "function", [lambda: defer(fail), lambda: before_response(fail), lambda: forget("")]
)
def test_no_request(function):
    """Outside a request, the error says what to do."""
    with pytest.raises(NoScopeError, match=r"with wsgi_defer\.deferring\(\)") as caught:
        function()
    assert isinstance(caught.value, DeferError)
    assert current_scope() is None


def test_too_late(ran):
    """A thread that outlives the request gets an error when the drain has ended."""
    contexts = []
    app = DeferMiddleware(text_app(lambda: contexts.append(contextvars.copy_context())))
    get(app)
    with pytest.raises(ScopeClosedError, match="defer"):
        contexts[0].run(defer, ran.append, 1)
    assert contexts[0].run(current_scope).registered == 0

    def view():
        contexts.append(contextvars.copy_context())
        defer(ran.append, 2)

    get(DeferMiddleware(text_app(view)))
    with pytest.raises(ScopeClosedError):
        contexts[1].run(defer, ran.append, 3)
    with pytest.raises(ScopeClosedError, match="before_response"):
        contexts[1].run(before_response, ran.append, 3)
    assert ran == [2]


@pytest.mark.promise("N11")
def test_too_late_for_the_response(caplog):
    """A call can change neither its status nor its headers; the log names who tried."""

    def app(environ, start_response):
        start_response("200 OK", [("Set-Cookie", "a=1")])
        again = [("Set-Cookie", "a=2")]
        defer(start_response, "404 Not Found", again).named("once more")
        defer(before_response, int).named("before")
        return [b""]

    environ = make_environ()
    reply = get(DeferMiddleware(app), environ=environ)
    assert (reply.status, reply.starts) == ("200 OK", 1)
    assert ("Set-Cookie", "a=1") in reply.headers
    assert environ["wsgi_defer.scope"].failed == 2
    assert "deferred call once more failed" in caplog.text
    assert "deferred call before failed" in caplog.text
    assert "ResponseStartedError" in caplog.text


def test_how_often(ran):
    """However often the server closes the body, the calls run once."""
    app = DeferMiddleware(text_app(lambda: defer(ran.append, 1)))
    body = app(make_environ(), lambda status, headers: None)
    body.close()
    body.close()
    assert ran == [1]
    assert list(body) == []


def test_limit(caplog):
    """A call that defers itself ends with an error that says so."""
    count = []

    def again():
        count.append(1)
        defer(again)

    get(DeferMiddleware(text_app(lambda: defer(again)), max_calls=20))
    assert len(count) == 20
    assert "max_calls" in caplog.text

    with deferring(max_calls=1):
        defer(int)
        with pytest.raises(TooManyCallsError) as caught:
            defer(int)
    assert caught.value.limit == 1


def test_default_limit():
    """One request may register a thousand calls."""

    def view():
        for _ in range(1000):
            defer(int)
        with pytest.raises(TooManyCallsError, match="1000"):
            defer(int)

    environ = make_environ()
    get(DeferMiddleware(text_app(view)), environ=environ)
    assert environ["wsgi_defer.scope"].finished == 1000


@pytest.mark.parametrize("function", [defer, before_response])
@pytest.mark.parametrize("wrong", [None, 1, "text"])
def test_not_callable(function, wrong):
    """What cannot be called is refused at the line, also outside a request."""
    with pytest.raises(TypeError, match=f"{function.__name__}.*cannot be called"):
        function(wrong)


def test_a_predicate_that_raises(ran, caplog):
    """It is logged as a failure of the call, which does not run."""

    def view():
        defer(ran.append, 1).when(lambda outcome: 1 / 0)
        defer(ran.append, 2)

    environ = make_environ()
    get(DeferMiddleware(text_app(view)), environ=environ)
    assert ran == [2]
    assert environ["wsgi_defer.scope"].failed == 1
    assert "ZeroDivisionError" in caplog.text
    with deferring(), pytest.raises(TypeError, match="Outcome"):
        defer(fail).when("always")  # type: ignore[arg-type]


def test_arguments_belong_to_the_callee(ran):
    """No keyword is reserved: fn, name and self reach the function."""

    def callee(*args, **kwargs):
        ran.append((args, kwargs))

    def view():
        defer(callee, 1, fn=2, self=3, name=4, args=5)

    get(DeferMiddleware(text_app(view)))
    assert ran == [((1,), {"fn": 2, "self": 3, "name": 4, "args": 5})]


@pytest.mark.promise("N2", "N3")
def test_the_app_raised(ran):
    """The exception goes up at once and unchanged; the calls run behind it."""
    go = threading.Event()
    error = LookupError("unchanged")

    def app(environ, start_response):
        defer(ran.append, "plain")
        defer(go.wait, 10).always()
        defer(ran.append, "always").always()
        defer(ran.append, "failure").on_failure()
        defer(fail).when(lambda outcome: ran.append(outcome.error))
        raise error

    with pytest.raises(LookupError) as caught:
        get(DeferMiddleware(app))
    assert caught.value is error
    assert ran == []
    go.set()
    background.join()
    assert ran == ["always", "failure", error]


@pytest.mark.parametrize("steps", [0, 1])
def test_the_body_raised(ran, steps):
    """An error while the body is made is the app's as well."""
    go = threading.Event()

    def app(environ, start_response):
        start_response("200 OK", [])
        defer(ran.append, "plain")
        defer(go.wait, 10).always()
        defer(ran.append, "failure").on_failure()
        yield from [b"1"] * steps
        raise LookupError

    with pytest.raises(LookupError):
        get(DeferMiddleware(app))
    assert ran == []
    go.set()
    background.join()
    assert ran == ["failure"]


def test_the_apps_close_raised(ran):
    """Its exception comes out of close(), and counts as a failure."""
    seen = []

    class Body(list):
        def close(self):
            ran.append("close")
            raise LookupError

    def app(environ, start_response):
        start_response("200 OK", [])
        defer(ran.append, "plain")
        defer(ran.append, "failure").on_failure()
        defer(int).when(seen.append)
        return Body([b"1"])

    with pytest.raises(LookupError):
        get(DeferMiddleware(app))
    background.join()
    assert ran == ["close", "failure"]
    assert isinstance(seen[0].error, LookupError)
    assert seen[0].delivered


@pytest.mark.promise("S10")
def test_deferred_by_the_apps_close(ran):
    """The app's close() is a part of the request and may defer."""

    class Body:
        def __iter__(self):
            return iter([b"1"])

        def close(self):
            defer(ran.append, "from close")

    def app(environ, start_response):
        start_response("200 OK", [])
        return Body()

    get(DeferMiddleware(app))
    assert ran == ["from close"]


@pytest.mark.promise("N4")
def test_deferred_by_a_streaming_body(ran):
    """A generator body defers at any step."""

    def app(environ, start_response):
        start_response("200 OK", [])
        for number in range(4):
            defer(ran.append, number)
            yield b"x"
            assert ran == []

    assert get(DeferMiddleware(app)).body == b"xxxx"
    assert ran == [0, 1, 2, 3]


def test_gunicorns_order_to_stop(ran, caplog):
    """Only gunicorn's own SystemExit leaves close(); what did not run is named."""

    def view():
        defer(ran.append, 1)
        defer(handle_abort).named("the slow one")
        defer(ran.append, 2).named("waiting one")
        defer(fail)

    with pytest.raises(SystemExit):
        get(DeferMiddleware(text_app(view)))
    assert ran == [1]
    assert "the slow one lost while it ran" in caplog.text
    assert caplog.text.count(" lost: the process was told to stop") == 2
