"""Several requests at once: interleaved, nested, wrapped twice, in threads."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import gc
import itertools
import sys
import threading

import pytest

from wsgi_defer import (
    DeferMiddleware,
    NoScopeError,
    Outcome,
    ResponseStartedError,
    Scope,
    ScopeClosedError,
    background,
    before_response,
    current_scope,
    defer,
    deferring,
)
from wsgi_defer._calls.options import Options
from wsgi_defer._calls.scope import enter, leave
from wsgi_defer._request import bodies, middleware
from wsgi_defer._request.exchange import Exchange

from ...helpers.client import get, make_environ, text_app


def ignore(status, headers, exc_info=None):
    return lambda data: None


class Sized:
    """A body of the app's own class, with a length."""

    def __init__(self, inner):
        self.inner = inner

    def __len__(self):
        return 3

    def __iter__(self):
        return iter(self.inner)


def counting_app(ran, name, items=3):
    """A streaming app; each of its steps defers."""

    def app(environ, start_response):
        start_response("200 OK", [])
        for number in range(items):
            defer(ran.append, f"{name}{number}")
            yield f"{name}{number}".encode()

    return app


@pytest.mark.parametrize("kind", ["generator", "iterator", "sized"])
def test_two_responses_in_turn_on_one_thread(ran, kind):
    """bjoern steps through several responses in turn; none gets another's calls."""

    def app(name):
        def app(environ, start_response):
            body = counting_app(ran, name)(environ, start_response)
            make = {"generator": iter, "iterator": lambda it: map(bytes, it)}
            return make.get(kind, Sized)(body)

        return DeferMiddleware(app)

    first = app("a")(make_environ(), ignore)
    second = app("b")(make_environ(), ignore)
    for _ in zip(iter(first), iter(second), strict=True):
        pass
    second.close()
    assert ran == ["b0", "b1", "b2"]
    first.close()
    assert ran == ["b0", "b1", "b2", "a0", "a1", "a2"]


def test_steps_of_two_responses_in_every_order(ran):
    """Also when one is read for a while, then the other."""
    for order in set(itertools.permutations("aaabbb")):
        ran.clear()
        bodies = {
            name: DeferMiddleware(counting_app(ran, name))(make_environ(), ignore)
            for name in "ab"
        }
        steps = {name: iter(body) for name, body in bodies.items()}
        for name in order:
            next(steps[name])
        for name in "ab":
            bodies[name].close()
            assert ran == [f"{name}{number}" for number in range(3)]
            ran.clear()
        assert current_scope() is None


def test_a_subrequest_has_a_scope_of_its_own(ran):
    """Its calls run when its body closes; those of the outer request stay."""
    inner = DeferMiddleware(counting_app(ran, "inner"))

    def app(environ, start_response):
        defer(ran.append, "outer before")
        body = get(inner).body
        ran.append("inner has ended")
        defer(ran.append, "outer after")
        start_response("200 OK", [])
        return [body]

    assert get(DeferMiddleware(app)).body == b"inner0inner1inner2"
    assert ran == [
        "inner0", "inner1", "inner2", "inner has ended", "outer before", "outer after",
    ]  # fmt: skip


def test_a_subrequest_in_a_streaming_body(ran):
    """Between the steps of the inner response, the outer scope is current."""
    inner = DeferMiddleware(counting_app(ran, "inner"))

    def app(environ, start_response):
        start_response("200 OK", [])
        body = inner(make_environ(), ignore)
        for number, item in enumerate(body):
            defer(ran.append, f"outer{number}")
            yield item
        body.close()
        ran.append("inner has ended")

    get(DeferMiddleware(app))
    assert ran == [
        "inner0", "inner1", "inner2", "inner has ended", "outer0", "outer1", "outer2",
    ]  # fmt: skip


@pytest.mark.promise("N14")
def test_wrapped_twice(ran):
    """One drain, that of the outermost."""

    def view():
        defer(ran.append, 1)

    app = DeferMiddleware(text_app(view))

    def between(environ, start_response):
        body = app(environ, start_response)
        assert type(body) is list
        defer(ran.append, 2)
        return body

    outer = DeferMiddleware(between)
    body = outer(make_environ(), ignore)
    assert ran == []
    body.close()
    assert ran == [1, 2]


def test_wrapped_twice_and_streaming(ran):
    """Also for what is deferred later."""
    app = DeferMiddleware(DeferMiddleware(counting_app(ran, "x")))
    body = app(make_environ(), ignore)
    list(body)
    assert ran == []
    body.close()
    assert ran == ["x0", "x1", "x2"]


def test_a_part_of_a_request(ran):
    """A copy of the environ makes a part of the same request, with its outcome."""
    inner = DeferMiddleware(text_app(lambda: defer(ran.append, "inner"), "404 No"))

    def app(environ, start_response):
        inner(dict(environ, PATH_INFO="/part"), ignore)
        start_response("200 OK", [])
        return []

    get(DeferMiddleware(app))
    assert ran == ["inner"]


def test_an_environ_that_is_used_again(ran):
    """A second request with the same environ has a scope of its own."""
    app = DeferMiddleware(text_app(lambda: defer(ran.append, 1)))
    environ = make_environ()
    get(app, environ=environ)
    get(app, environ=environ)
    assert ran == [1, 1]
    context = contextvars.copy_context()
    context.run(enter, environ["wsgi_defer.scope"])  # left over in a server's thread
    context.run(get, app, environ=environ)
    assert ran == [1, 1, 1]
    get(app, environ=make_environ(**{"wsgi_defer.scope": None}))
    get(app, environ=make_environ(**{"wsgi_defer.scope": "from a proxy"}))
    assert ran == [1] * 5


@pytest.mark.promise("L24")
def test_a_body_that_is_never_closed_leaves_no_scope(ran):
    """Reading one item, or all, and not closing leaves nothing current."""
    body = DeferMiddleware(counting_app(ran, "a"))(make_environ(), ignore)
    next(iter(body))
    assert current_scope() is None
    list(body)
    assert current_scope() is None
    with pytest.raises(NoScopeError):
        defer(int)
    body.close()


def test_closed_half_way_leaves_no_scope(ran):
    """Nor does closing in the middle of the stream."""
    body = DeferMiddleware(counting_app(ran, "a"))(make_environ(), ignore)
    steps = iter(body)
    next(steps)
    next(steps)
    body.close()
    assert current_scope() is None
    assert ran == ["a0", "a1"]

    class Body:
        def __iter__(self):
            return iter([b"1", b"2", b"3"])

    body = DeferMiddleware(lambda environ, start_response: Body())(
        make_environ(), ignore
    )
    steps = iter(body)
    next(steps)
    next(steps)
    body.close()
    assert current_scope() is None


def test_a_collector_of_garbage_touches_no_context_variable(ran):
    """CPython may crash if one is set inside another; so nothing is set there."""
    before = contextvars.copy_context()
    app = DeferMiddleware(counting_app(ran, "a"))
    body = app(make_environ(), ignore)
    looked = threading.Event()
    # Its thread sets some, and so has to wait.
    background.submit(Scope(), Outcome(), lambda: looked.wait(10))

    def half():
        steps = iter(body)
        next(steps)
        next(steps)

    def collect():
        half()
        touched = []
        with pytest.MonkeyPatch.context() as patch:
            for name in ("enter", "leave"):
                patch.setattr(bodies, name, touched.append)
                patch.setattr(middleware, name, touched.append)
            body.steps.close()  # as the collector does
        assert touched == []

    try:
        before.run(collect)
    finally:
        looked.set()
    background.join()
    assert ran == ["a0", "a1"]


@pytest.mark.promise("N8")
@pytest.mark.parametrize("kind", ["generator", "iterator", "list", "sized"])
@pytest.mark.parametrize("read", [0, 1, 9])
def test_dropped_and_not_closed(ran, kind, read):
    """asgiref, for one, never closes a body; its calls run all the same."""

    def app(environ, start_response):
        defer(ran.append, "call")
        start_response("200 OK", [])
        items = [b"1", b"2"]
        make = {"list": list, "iterator": iter, "sized": Sized}
        return make.get(kind, lambda items: (item for item in items))(items)

    def server():
        steps = iter(DeferMiddleware(app)(make_environ(), ignore))
        for _ in range(read):
            next(steps, None)

    server()
    gc.collect()
    background.join()
    assert ran == ["call"]


def test_dropped_with_nothing_deferred(ran):
    """The app's close() is the server's to call; it is not called here."""

    class Body(Sized):
        def close(self):
            ran.append("closed")

    class Stream:
        close = Body.close

        def __iter__(self):
            return iter([b"1"])

    for body in (Body([b"1"]), Stream()):
        app = DeferMiddleware(lambda environ, start, body=body: body)
        next(iter(app(make_environ(), ignore)))
    gc.collect()
    assert ran == []


def test_dropped_by_closing_the_iterator(ran):
    """Somebody closes the iterator instead of the iterable."""
    body = DeferMiddleware(counting_app(ran, "a"))(make_environ(), ignore)
    steps = iter(body)
    next(steps)
    steps.close()
    background.join()
    assert ran == ["a0"]


def test_what_is_dropped_runs_on_the_background_thread():
    """The collector of garbage may be at work, in any thread, at any line."""
    threads = []

    def call():
        threads.append(threading.current_thread().name)

    def streaming(environ, start_response):
        start_response("200 OK", [])
        defer(call)
        yield b"1"
        yield b"2"

    body = DeferMiddleware(streaming)(make_environ(), ignore)
    next(body)
    body.steps.close()  # as the collector does
    DeferMiddleware(text_app(lambda: defer(call)))(make_environ(), ignore)
    background.join()
    assert threads == ["wsgi_defer"] * 2


def test_a_body_that_is_closed_without_a_step(ran):
    """A server that never takes an item: what was held for it is discarded."""

    def app(environ, start_response):
        start_response("200 OK", [])
        yield b"1"

    def lazy(environ, start_response):
        before_response(ran.append, "held")
        defer(ran.append, "failure").on_failure()
        return app(environ, start_response)

    environ = make_environ()
    DeferMiddleware(lazy)(environ, ignore).close()
    assert ran == ["failure"]
    assert environ["wsgi_defer.scope"].skipped == 1


def test_left_in_another_context_than_entered(ran):
    """A server that takes the second item here and the last one there."""
    body = DeferMiddleware(counting_app(ran, "a", items=2))(make_environ(), ignore)
    steps = iter(body)
    next(steps)
    first = contextvars.copy_context()
    first.run(next, steps)
    first.run(lambda: contextvars.copy_context().run(next, steps, None))
    body.close()
    assert ran == ["a0", "a1"]


def test_steps_on_several_threads(ran):
    """granian takes each item on any of its threads."""
    body = DeferMiddleware(counting_app(ran, "a", items=6))(make_environ(), ignore)
    steps = iter(body)
    for _ in range(7):
        thread = threading.Thread(target=next, args=(steps, None))
        thread.start()
        thread.join()
    body.close()
    assert ran == [f"a{number}" for number in range(6)]


def test_steps_in_several_contexts(ran):
    """A server may step in a new contextvars context each time, or go back."""
    app = DeferMiddleware(counting_app(ran, "a", items=6))
    body = app(make_environ(), ignore)
    steps = iter(body)
    contexts = [contextvars.copy_context() for _ in range(2)]
    for index in (0, 0, 0, 1, 0, 1, 1):
        contexts[index].run(next, steps, None)
    contextvars.copy_context().run(body.close)
    assert ran == [f"a{number}" for number in range(6)]
    assert current_scope() is None


def test_deferred_from_threads(ran):
    """Threads with the request's context add to its scope; none is lost."""

    def view():
        threads = [
            threading.Thread(
                target=contextvars.copy_context().run,
                args=(lambda: [defer(ran.append, 1) for _ in range(50)],),
            )
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    get(DeferMiddleware(text_app(view)))
    assert len(ran) == 400


@pytest.fixture
def frequent_switches():
    """Let threads take turns as often as the interpreter can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("frequent_switches")
def test_a_thread_that_defers_while_the_request_ends():
    """Each call either runs, or its defer() raises; none is lost between."""
    for _ in range(200):
        accepted, ran, start = [], [], threading.Event()

        def work(start=start, accepted=accepted, ran=ran):
            start.wait()
            try:
                for _ in range(20):
                    defer(ran.append, 1)
                    accepted.append(1)
            except ScopeClosedError:
                pass

        threads = []

        def view(start=start, work=work, threads=threads):
            context = contextvars.copy_context()
            threads.append(threading.Thread(target=context.run, args=(work,)))
            threads[0].start()
            start.set()

        get(DeferMiddleware(text_app(view)))
        threads[0].join()
        assert len(ran) == len(accepted)


def test_a_thread_that_defers_as_the_scope_closes_unused(ran):
    """The request looks once more after it has closed the scope."""

    class Slow(Exchange):
        def __setattr__(self, name, value):
            super().__setattr__(name, value)
            if name == "closed" and value and not self.registered:
                super().__setattr__("registered", 1)  # as _append() begins
                self.__dict__["_deferred"] = [call]

    with deferring():
        call = defer(ran.append, 1).named("x")
        scope = Slow(Options(), make_environ(), ignore)
        scope.status = "200 OK"
        assert not scope.end_unused()
        assert not scope.closed
        scope.close()
    assert ran == [1]


def test_held_by_a_thread_while_the_response_starts(ran):
    """It is run, or refused; never taken and dropped."""
    scope = Scope()
    scope.started = True
    token = enter(scope)
    try:
        with pytest.raises(ResponseStartedError):
            before_response(ran.append, 1)
        assert (scope.registered, scope.pending) == (0, ())
    finally:
        leave(token)


def test_deferring_inside_a_request(ran):
    """The block has its own calls, and runs them at its end."""

    def view():
        defer(ran.append, "request")
        with deferring():
            defer(ran.append, "block")
        ran.append("view goes on")

    get(DeferMiddleware(text_app(view)))
    assert ran == ["block", "view goes on", "request"]


def test_a_request_made_by_a_call(ran):
    """A call may send a request to the app in this very process."""
    app = DeferMiddleware(counting_app(ran, "inner", 1))

    def call():
        get(app)
        defer(ran.append, "nested")

    get(DeferMiddleware(text_app(lambda: defer(call))))
    assert ran == ["inner0", "nested"]


@pytest.mark.promise("L10")
def test_current_scope():
    """It is the one in the environ, and knows what is pending."""

    def app(environ, start_response):
        scope = current_scope()
        assert scope is environ["wsgi_defer.scope"]
        call, other = defer(int), defer(float)
        assert (len(scope.pending), scope.pending[0]) == (2, call)
        assert other in scope.pending
        other.cancel()
        assert scope.pending == (call,)
        start_response("200 OK", [])
        return []

    environ = make_environ()
    get(DeferMiddleware(app), environ=environ)
    scope = environ["wsgi_defer.scope"]
    assert (scope.closed, scope.pending, scope.finished) == (True, (), 1)


def test_around_of_two_middlewares(ran):
    """The outer one's holds, if it has one."""

    def around(name):
        return contextlib.nullcontext(ran.append(name))

    def app(around_outer):
        inner = DeferMiddleware(
            text_app(lambda: defer(int)), around=functools.partial(around, "inner")
        )
        return DeferMiddleware(inner, around=around_outer)

    get(app(functools.partial(around, "outer")))
    get(app(None))
    assert ran == ["outer", "inner"]


@pytest.mark.parametrize("body", [[b"x"], (b"x",), iter([b"x"])])
def test_dropped_with_its_body(ran, caplog, body):
    """The collector may come to the body first, and then to the scope, which the
    background has by then."""
    scopes, go = [], threading.Event()

    def view(environ, start_response):
        scopes.append(current_scope())
        defer(ran.append, 1).always()
        start_response("200 OK", [])
        return body

    with deferring() as blocking:
        defer(go.wait, 10)
        background.submit(blocking, Outcome(), lambda: None)
        response = DeferMiddleware(view)(make_environ(), lambda status, headers: None)
        del response
        gc.collect()
        scopes[0].__del__()
        go.set()
        assert background.join(10)
    assert ran == [1]
    assert "lost" not in caplog.text


def test_an_end_is_told_once():
    """A call that is lost is not skipped as well, nor the other way round."""
    with deferring() as scope:
        lost, skipped = defer(int), defer(int)
        scope.lose(lost, "the process ends")
        scope.skip(lost, "it was cancelled")
        scope.skip(skipped, "it was cancelled")
        scope.lose(skipped, "the process ends")
    assert (scope.lost, scope.skipped, scope.finished) == (1, 1, 0)
