"""The Flask extension: ``Defer(app)``, and views call ``defer()``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from contextvars import Context
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any, TypedDict, cast

import click
import flask
from flask import Flask, g, has_app_context, has_request_context
from flask.ctx import AppContext
from flask.globals import _cv_app, app_ctx

from . import background
from ._calls.aside import Apart
from ._calls.invoke import Around
from ._calls.options import WhenBusy
from ._calls.scope import Scope, current_scope
from ._calls.waiting_room import WhenFull
from ._request.block import deferring
from ._request.middleware import SCOPE_KEY, DeferMiddleware
from ._servers.spent import spend_stream
from .observers._arguments import ArgumentObserver
from .observers._observer import Observer
from .observers._observers import Observers
from .pools._kinds import Pools

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment
    from flask.testing import FlaskClient
    from typing_extensions import Unpack

__all__ = ["Defer"]

MERGED = hasattr(AppContext, "has_request")  # the two contexts, from Flask 3.2 on
if TYPE_CHECKING or not MERGED:
    from flask.ctx import RequestContext
    from flask.globals import request_ctx


class Options(TypedDict, total=False):
    """Those of ``DeferMiddleware``."""

    max_calls: int
    around: Around | None
    inline: bool | None
    background_threads: int
    when_busy: WhenBusy
    observers: Iterable[Observer]
    time_limit: float | None
    time_limit_grace: float
    slow_after: float | None
    max_waiting: int | None
    when_full: WhenFull
    pools: Pools | None


class Defer:
    """Make ``defer()`` work in a Flask app's views, commands and tests.

    ::

        app = Flask(__name__)
        Defer(app)              # or Defer().init_app(app)

    Each call runs inside a fresh copy of its request's context, whose teardown
    functions run after it. If the call failed, ``teardown_appcontext`` functions get
    its exception. ``teardown_request`` functions get None: the request has not failed.
    What they defer, hold or enqueue for their request, they do not defer once more for
    each of its calls.

    ``request``, ``current_app`` and ``url_for()`` are as in the view. ``session`` is
    read-only: a change is not sent to the client. ``g`` holds what the view left in it,
    except for objects with a ``close()``: the teardown of the request has closed those.
    Other extensions see a new app context, so the session of Flask-SQLAlchemy, for
    example, is fresh, and is removed afterwards.

    The tasks of a ``ThreadPool`` or an ``AsyncPool`` have such an app context, too,
    while the view runs. They share the view's ``request`` and ``session``, so
    ``teardown_request`` functions are not called for a task; ``teardown_appcontext``
    functions are. What a task loads with its database session is detached when the view
    gets it.

    The calls of an ``app.cli`` command run when it has succeeded. A command that never
    ends, such as a queue worker, needs ``with deferring():`` around each piece of work.
    With ``app.test_client()``, calls have run when the client's method returns: the
    client reads and closes a response with deferred calls. Calls that a streaming body
    defers after its first item run when the test closes the response.

    :param app: the app. Without it, call ``init_app()`` later, for any number of apps.
    :param check_arguments: True warns of each line that gives a call an object of a
        SQLAlchemy session, or a proxy such as ``request``: the call has a session of
        its own, so pass the object's id. By default, it does so if ``app.debug`` or
        ``app.testing`` is set at the first request.
    :param options: those of ``DeferMiddleware``, such as ``max_calls``. ``around`` is
        entered inside the contexts of a call, where ``g`` and ``current_app`` are
        there: for what ``before_request`` functions open, which do not run again.
        Those that ``deferring()`` has apply to commands, too.

    Where an app is mounted in another, each call has the contexts, the ``around`` and
    the ``time_limit`` of the app that deferred it. All else is as the outer one says.
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        check_arguments: bool | None = None,
        **options: Unpack[Options],
    ) -> None:
        self.check_arguments = check_arguments
        self.options = options
        if "observers" in options:  # an iterator would be empty the second time
            options["observers"] = tuple(options["observers"])
        self._arguments = ArgumentObserver(lasting=(Flask,))
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Wrap ``app.wsgi_app``. A middleware that is put around ``app.wsgi_app`` later
        is outside, and ends before the calls start."""
        if "wsgi_defer" in app.extensions:
            raise RuntimeError(f"Defer is already set up for the app {app.name!r}")
        app.extensions["wsgi_defer"] = self
        middleware = DeferMiddleware(app.wsgi_app, **self.options)
        middleware.options = middleware.options._replace(
            around=partial(fresh_context, app), limit_in=_limit_in
        )
        app.extensions["wsgi_defer_middleware"] = middleware
        app.wsgi_app = middleware  # type: ignore[method-assign]
        if self.check_arguments is not False:
            self._check_from_the_first_request_on(app, middleware)
        self._wrap_commands(app)
        self._wrap_test_client(app)

    def _options_now(self, app: Flask) -> Options:
        """With what checks arguments, if it is to."""
        checks = self.check_arguments
        if not (app.debug or app.testing if checks is None else checks):
            return self.options
        observers = [*self.options.get("observers", ()), self._arguments]
        return {**self.options, "observers": observers}

    def _check_from_the_first_request_on(
        self, app: Flask, middleware: DeferMiddleware
    ) -> None:
        """Not now: ``app.debug`` and ``app.testing`` are often set after this. And not
        at each request, or it would cost something where nothing is checked."""
        wsgi_app, before = middleware.app, middleware.options

        def first(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
            middleware.app = wsgi_app
            options = self._options_now(app)
            if options is not self.options:
                room: list[Any] = [] if before.room is None else [before.room]
                observers = Observers([*room, *options["observers"]])
                middleware.options = before._replace(observers=observers)
                scope = environ[SCOPE_KEY]
                if scope.options is before:  # else it is one around this app
                    scope.options = middleware.options
            return wsgi_app(environ, start_response)

        middleware.app = first

    def _wrap_commands(self, app: Flask) -> None:
        """Open a scope for a command where Flask pushes its context."""
        get_command = app.cli.get_command

        def get_command_in_scope(
            ctx: click.Context, cmd_name: str
        ) -> click.Command | None:
            command = get_command(ctx, cmd_name)
            if command is not None and current_scope() is None:
                ctx.with_resource(_command_scope(app, self._options_now(app)))
            return command

        app.cli.get_command = get_command_in_scope  # type: ignore[method-assign]

    def _wrap_test_client(self, app: Flask) -> None:
        """Close responses that have deferred calls. Flask's client leaves that to the
        test, which would then see no call run."""
        test_client = app.test_client

        def draining_client(*args: Any, **kwargs: Any) -> FlaskClient:
            client = test_client(*args, **kwargs)
            run_wsgi_app = client.run_wsgi_app

            def run_and_drain(environ: WSGIEnvironment, buffered: bool = False) -> Any:
                with _scopes_of(client) as scopes:
                    body, *head = run_wsgi_app(environ, buffered)
                    if not buffered and any(scope.pending for scope in scopes):
                        with closing(cast(Any, body)):
                            body = list(body)
                return body, *head

            client.run_wsgi_app = run_and_drain  # type: ignore[method-assign]
            return client

        app.test_client = draining_client  # type: ignore[method-assign]


@contextmanager
def fresh_context(app: Flask) -> Iterator[None]:
    """An app context with its own teardown and, if the request has ended, a copy of its
    request context; inside of them, what the app's ``Defer()`` has as ``around``. It is
    the ``around`` of this extension. The app is the one that deferred the call, and
    ``app`` where that was done outside of any.

    What hooks of the app defer while the contexts begin or end comes to nothing. They
    have deferred it at the end of the request.
    """
    if has_app_context():
        app = app_ctx.app
    around = _of_extension(app, "around") or nullcontext
    with Apart(_own_contexts(app)), around():
        yield


@contextmanager
def _own_contexts(app: Flask) -> Iterator[None]:
    # What the view left. A copy, because the view may still run in another thread.
    left = dict(vars(app_ctx.g)) if has_app_context() else {}
    with ExitStack() as contexts:
        if MERGED:
            merged, in_use = _begin_merged(app)
            contexts.push(lambda kind, error, trace: _end_merged(merged, in_use, error))
            _fill_g(left)
        else:
            request_context = None
            # A request context that is still in use is kept: the end of a copy would
            # close the uploaded files, and its start would set view_args again.
            if has_request_context() and not request_ctx._cv_tokens:
                request_context = request_ctx.copy()
                spend_stream(request_context.request, request_context.request.environ)
            # Push the app context first. Otherwise, the request context would find the
            # old one and use that, and its teardown would not run.
            app_context = app.app_context()
            app_context.push()
            contexts.push(lambda kind, error, trace: _leave(app_context, error))
            _fill_g(left)
            if request_context is not None:
                request_context.push()
                # Whatever the call raises: its request has not failed.
                contexts.callback(_leave, request_context, None)
        yield


def _fill_g(left: dict[str, Any]) -> None:
    for name, value in left.items():
        if not hasattr(type(value), "close"):
            setattr(g, name, value)


def _of_extension(app: Flask, option: str) -> Any:
    """An option of the app's ``Defer()``; None if it has none."""
    extension = app.extensions.get("wsgi_defer")
    return None if extension is None else extension.options.get(option)


def _limit_in(context: Context) -> float | None:
    """The ``time_limit`` of the app that deferred the call of that context."""
    where = context.get(_cv_app)
    return None if where is None else _of_extension(where.app, "time_limit")


def _leave(context: AppContext | RequestContext, error: BaseException | None) -> None:
    """End a context of ours, with its teardown, if there is any.

    Where no code of the app's would run, the methods of Flask's that run it are not
    called: a tracer would make a span of each, long after the end of the request.
    """
    of_request = isinstance(context, RequestContext)
    own_kind = type(context) not in (AppContext, RequestContext)
    if own_kind or _has_teardown(context.app, of_request):
        context.pop(error)
        return
    token: Any = context._cv_tokens.pop()
    if isinstance(context, RequestContext):
        context.request.close()
        token, _ = token
    token.var.reset(token)


def _has_teardown(app: Flask, of_request: bool) -> bool:
    functions = bool(app.teardown_appcontext_funcs)
    method, signal = "do_teardown_appcontext", flask.appcontext_tearing_down
    if of_request:
        functions = any(app.teardown_request_funcs.values())
        method, signal = "do_teardown_request", flask.request_tearing_down
    definer = next(each for each in type(app).__mro__ if method in vars(each))
    return bool(
        functions
        or signal.has_receivers_for(app)
        or flask.appcontext_popped.has_receivers_for(app)
        or definer is not Flask
    )


# Flask 3.2 has one context for both, with what its pop() does for both.


def _begin_merged(app: Flask) -> tuple[Any, bool]:
    """The context, and whether its request is still in use, by the view."""
    where: Any = _cv_app.get(None)
    if where is None or not where.has_request:
        context: Any = app.app_context()
        in_use = False
    else:
        context = where.copy()
        in_use = where._cv_token is not None
        if not in_use:
            spend_stream(context.request, context.request.environ)
    if in_use:  # push() would set view_args again
        context._push_count = 1
        context._cv_token = _cv_app.set(context)
    else:
        context.push()
    return context, in_use


def _end_merged(context: Any, in_use: bool, error: BaseException | None) -> None:
    app = context.app
    with ExitStack() as end:  # the last one first
        end.callback(context._cv_token.var.reset, context._cv_token)
        if _has_teardown(app, of_request=False):
            end.callback(app.do_teardown_appcontext, context, error)
        if context.has_request and not in_use:
            end.callback(context.request.close)
            if _has_teardown(app, of_request=True):
                end.callback(app.do_teardown_request, context, None)
    context._cv_token, context._push_count = None, 0
    flask.appcontext_popped.send(app, _async_wrapper=app.ensure_sync)


@contextmanager
def _command_scope(app: Flask, options: Options) -> Iterator[None]:
    leaving: click.exceptions.Exit | None = None
    known = signature(deferring).parameters
    chosen: dict[str, Any] = {
        name: value for name, value in options.items() if name in known
    }
    chosen["around"] = partial(fresh_context, app)
    with deferring(**chosen):
        try:
            yield
        except click.exceptions.Exit as error:
            if error.exit_code:
                raise
            leaving = error  # ctx.exit(): how a command ends early with success
    if leaving is not None:
        raise leaving


@contextmanager
def _scopes_of(client: FlaskClient) -> Iterator[list[Scope]]:
    """The scopes of the requests that the client sends inside the block.

    Werkzeug gives the app a copy of the environ, so only the app can tell.
    """
    app, scopes = client.application, []

    def remember(environ: WSGIEnvironment, start_response: StartResponse) -> Any:
        try:
            return app(environ, start_response)
        finally:
            if SCOPE_KEY in environ:
                scopes.append(environ[SCOPE_KEY])

    client.application = remember  # type: ignore[assignment]
    try:
        yield scopes
    except BaseException:
        background.join()  # the calls that run after an error of the app
        raise
    finally:
        client.application = app
