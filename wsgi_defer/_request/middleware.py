"""The WSGI middleware: where a request's scope opens."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from types import GeneratorType
from typing import TYPE_CHECKING

from .._calls.invoke import Around
from .._calls.options import GRACE, MAX_CALLS, Options, WhenBusy
from .._calls.scope import enter, get_current, leave
from .._calls.waiting_room import WhenFull, waiting_room
from .._runtime.forks import end_fork
from .._servers.detect import clears_environ, prepare_process, prepare_request
from ..observers._observer import Observer
from ..observers._observers import Observers
from ..pools._kinds import Pools, checked_pools
from .exchange import Exchange
from .response_finished import KEY as FINISHED_KEY
from .response_finished import forget_list

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

SCOPE_KEY = "wsgi_defer.scope"


class DeferMiddleware:
    """Give every request of ``app`` a scope, and run its calls after the response.

    Make it the outermost middleware: what is outside of it ends before the calls start.
    If an app is wrapped twice, the outer one does the work. With nothing deferred, the
    response passes through as it is. The scope is ``environ["wsgi_defer.scope"]``.
    If the server has no ``environ["wsgi.response_finished"]``, this provides it; see
    ``docs/response_finished.md``.

    ::

        application = DeferMiddleware(app)

    :param app: the WSGI app.
    :param max_calls: how many calls one request may register; the next one raises
        ``TooManyCallsError``.
    :param around: a function that returns a context manager. Each call runs inside one
        of its own: for what a call needs fresh, such as a database session, or needs on
        its thread, such as Bottle's ``request``. An error in it is a failure of the
        call. Tasks of a ``ThreadPool`` or ``AsyncPool`` run inside one, too. A
        coroutine runs on another thread than that on which it is entered.
    :param inline: True runs the calls in the thread that served the request, False on
        a background thread. By default the server decides: inline, unless a client
        would have to wait for them.
    :param background_threads: how many background threads this process may start for
        requests to this middleware: so many requests can have their calls run there at
        a time. More than 1 is for calls that wait for the network, and the app must be
        thread-safe. The calls of one request still run in order, one at a time.
    :param when_busy: with "inline", the default, the worker finishes all calls first.
        With "thread", it looks before each call whether a client waits for this
        process, and then leaves the rest to a background thread; the app must be
        thread-safe. That needs gunicorn, with the hooks of ``wsgi_defer.gunicorn`` or
        its worker classes.
    :param observers: each hears of every call, besides the log; see ``Observer``.
    :param time_limit: seconds for each deferred call that has no limit of its own; see
        ``DeferredCall.time_limit()`` for where a call can be ended.
    :param time_limit_grace: seconds for the clean-up of a call that its limit ends: its
        ``except`` and ``finally`` blocks. At least 1; after that, they are ended, too.
        gunicorn does not wait for them: less time is left where the worker's own
        ``timeout``, or ``graceful_timeout`` after TERM, is over sooner.
    :param slow_after: seconds after which the stack of a running call is logged, once.
        Under gevent, only of a call that waits for something, not of one that computes.
    :param max_waiting: how many deferred calls may wait in this process, of all
        requests to this middleware.
    :param when_full: what happens to a call over that. "raise" raises
        ``TooManyWaitingError``; "drop" drops the oldest call, which is then lost.
    :param pools: those of ``pool(name)``, by their names; see ``wsgi_defer.pools``.
        ``default`` is ``ThreadPool(8, max_wait=30)`` unless it is among them.
    """

    def __init__(
        self,
        app: WSGIApplication,
        *,
        max_calls: int = MAX_CALLS,
        around: Around | None = None,
        inline: bool | None = None,
        background_threads: int = 1,
        when_busy: WhenBusy = "inline",
        observers: Iterable[Observer] = (),
        time_limit: float | None = None,
        time_limit_grace: float = GRACE,
        slow_after: float | None = None,
        max_waiting: int | None = None,
        when_full: WhenFull = "raise",
        pools: Pools | None = None,
    ) -> None:
        if not callable(app):
            raise TypeError(
                "DeferMiddleware takes a WSGI app, a function of environ and "
                f"start_response, not {type(app).__name__}"
            )
        room = waiting_room(max_waiting, when_full)
        self.app = with_lasting_environ(app) if clears_environ() else app
        self.options = Options(
            max_calls=max_calls,
            around=around,
            inline=inline,
            background_threads=background_threads,
            when_busy=when_busy,
            observers=Observers(observers if room is None else [room, *observers]),
            time_limit=time_limit,
            time_limit_grace=time_limit_grace,
            slow_after=slow_after,
            room=room,
            pools=None if pools is None else checked_pools(pools),
        ).checked()
        prepare_process()

    def __call__(
        self, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        if SCOPE_KEY in environ:
            outer = get_current()
            if outer is not None and outer is environ[SCOPE_KEY] and not outer.closed:
                # Wrapped twice, or part of a larger request: the outer one runs them.
                outer.complete_options(self.options)
                return self.app(environ, start_response)
            forget_list(environ, environ[SCOPE_KEY])
        exchange = Exchange(self.options, environ, start_response)
        environ[SCOPE_KEY] = exchange
        if FINISHED_KEY not in environ:  # else the server calls what is in its own
            exchange.finishing = environ[FINISHED_KEY] = []
        if "_bjoern" in sys.modules:  # a call would cost all other servers
            prepare_request(environ)
        token = enter(exchange)
        try:
            body = self.app(environ, exchange.start_response)
            if exchange.forked:
                end_fork()
            if not exchange.registered:
                if isinstance(body, (list, tuple)) and exchange.end_unused():
                    return body
                if type(body) is GeneratorType and not exchange.finishing:
                    return exchange.stream(body)
            return exchange.answer(body)
        except BaseException as error:
            if exchange.forked:
                end_fork(error)
            exchange.abort(error)
            raise
        finally:
            leave(token)


def with_lasting_environ(app: WSGIApplication) -> WSGIApplication:
    """The app, for a server that clears its environ: its calls may still look at it."""

    def lasting(
        environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes]:
        own = environ[SCOPE_KEY].keep_environ(environ)
        body = app(own, start_response)
        if len(own) > len(environ):  # middlewares outside may look for what is new
            environ.update(own)
        return body

    return lasting
