"""The Flask extension: ``Defer(app)``, and views call ``defer()``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import click
from flask import Flask, g, has_app_context, has_request_context
from flask.globals import app_ctx, request_ctx

from . import background
from ._drain import deferring
from ._middleware import SCOPE_KEY, DeferMiddleware
from ._scope import Scope, current_scope

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment
    from flask.testing import FlaskClient


class Defer:
    """Make ``defer()`` work in a Flask app's views, commands and tests.

    ::

        app = Flask(__name__)
        Defer(app)              # or Defer().init_app(app)

    Each call runs inside a fresh copy of its request's context, whose teardown
    functions run after it. ``request``, ``current_app`` and ``url_for()`` are as in
    the view; ``session`` can be read, but a change is not sent to anybody; ``g`` holds
    what the view left in it, except for what has a ``close()``: the teardown of the
    request has closed it. Other extensions see a new app context, so the session of
    Flask-SQLAlchemy, for one, is fresh, and is removed afterwards.

    So it is with the jobs of a ``ThreadPool`` or an ``AsyncPool``, at the same time as
    the view. While that runs, ``request`` and ``session`` are its own, and its
    ``teardown_request`` functions are not called for a job; those of
    ``teardown_appcontext`` are. What a job loads with its database session is detached
    when the view gets it.

    The calls of a command of ``app.cli`` run when it has succeeded. A command that
    never ends, such as a queue worker, wants ``with deferring():`` around each task.
    With ``app.test_client()``, calls have run when the client's method returns: a
    response with deferred calls is read and closed for that. Calls that a streaming
    body defers after its first item run when the test closes the response.

    :param app: the app; or none, and ``init_app()`` later, for any number of apps.
    :param options: those of ``DeferMiddleware``, such as ``max_calls``; all but
        ``around``. Those that ``deferring()`` has hold for commands, too.
    """

    def __init__(self, app: Flask | None = None, **options: Any) -> None:
        self.options = options
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Wrap ``app.wsgi_app``. A middleware around ``app.wsgi_app`` that is applied
        later is outside, and ends before the calls begin."""
        if "wsgi_defer" in app.extensions:
            raise RuntimeError(f"Defer is already set up for the app {app.name!r}")
        app.extensions["wsgi_defer"] = self
        app.wsgi_app = DeferMiddleware(  # type: ignore[method-assign]
            app.wsgi_app, around=partial(fresh_context, app), **self.options
        )
        self._wrap_commands(app)
        self._wrap_test_client(app)

    def _wrap_commands(self, app: Flask) -> None:
        """Open a scope where Flask, too, pushes its context for a command."""
        get_command = app.cli.get_command

        def get_command_in_scope(
            ctx: click.Context, cmd_name: str
        ) -> click.Command | None:
            command = get_command(ctx, cmd_name)
            if command is not None and current_scope() is None:
                ctx.with_resource(_command_scope(app, self.options))
            return command

        app.cli.get_command = get_command_in_scope  # type: ignore[method-assign]

    def _wrap_test_client(self, app: Flask) -> None:
        """Close responses that have deferred calls; Flask's client leaves that to the
        test, and a test would see no call run."""
        test_client = app.test_client

        def draining_client(*args: Any, **kwargs: Any) -> FlaskClient:
            client = test_client(*args, **kwargs)
            run_wsgi_app = client.run_wsgi_app

            def run_and_drain(environ: WSGIEnvironment, buffered: bool = False) -> Any:
                with _scopes_of(client) as scopes:
                    body, *head = run_wsgi_app(environ, buffered)
                    if any(scope.pending for scope in scopes):
                        with closing(cast(Any, body)):
                            body = list(body)
                return body, *head

            client.run_wsgi_app = run_and_drain  # type: ignore[method-assign]
            return client

        app.test_client = draining_client  # type: ignore[method-assign]


@contextmanager
def fresh_context(app: Flask) -> Iterator[None]:
    """An app context with a teardown of its own, and where the request has ended, a
    copy of its request context, too. It is the ``around`` of this extension.
    """
    # By the view. A copy, as that may run at the same time, in another thread.
    left = dict(vars(app_ctx.g)) if has_app_context() else {}
    request_context = None
    # One that is still in use stays: the end of a copy would close the files that were
    # uploaded, and its begin would set view_args anew.
    if has_request_context() and not getattr(request_ctx, "_cv_tokens", ()):
        request_context = request_ctx.copy()
    with ExitStack() as contexts:
        # The app context by itself, as the request context would find the old one
        # and take it for its own. Its teardown would not run, then.
        contexts.enter_context(app.app_context())
        for name, value in left.items():
            if not hasattr(type(value), "close"):
                setattr(g, name, value)
        if request_context is not None:
            contexts.enter_context(request_context)
        yield


@contextmanager
def _command_scope(app: Flask, options: dict[str, Any]) -> Iterator[None]:
    leaving: click.exceptions.Exit | None = None
    known = ("max_calls", "observers", "time_limit", "slow_after", "pools")
    chosen = {name: options[name] for name in known if name in options}
    with deferring(around=partial(fresh_context, app), **chosen):
        try:
            yield
        except click.exceptions.Exit as error:
            if error.exit_code:
                raise
            leaving = error  # ctx.exit(): that is how a command ends early, and well
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
        background.join()  # the calls that are to run after an error of the app
        raise
    finally:
        client.application = app
