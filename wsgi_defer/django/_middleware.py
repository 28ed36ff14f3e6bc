"""Django's middleware: where a request's scope opens."""

from __future__ import annotations

import sys
from collections.abc import Callable
from threading import get_ident
from typing import Any

from django.db import connections
from django.http import HttpRequest
from django.http.response import HttpResponseBase

from .._calls.scope import enter, get_current, leave
from .._request.middleware import SCOPE_KEY
from .._runtime.forks import end_fork
from .._servers.detect import prepare_request
from ._commits import keep_scope, open_transactions
from ._exchange import DjangoExchange, start_response_for
from ._options import options_of_settings

GetResponse = Callable[[HttpRequest], HttpResponseBase]


class DeferMiddleware:
    """Give each request a scope, and run its calls after the response.

    Put it first in ``MIDDLEWARE``, and ``"wsgi_defer.django"`` in ``INSTALLED_APPS``.
    The options of ``wsgi_defer.DeferMiddleware`` are set by ``WSGI_DEFER``, a dict.

    Calls run after ``request_finished``. Around each, the database connections of its
    thread are treated as around a request. If ``wsgi.py`` wraps the application, too,
    that middleware does the work, and this one tends the connections.

    With Django's test client, calls have run when the client's method returns; those of
    a streaming response, when the test has read it.
    """

    sync_capable = True
    async_capable = False

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        self.options = options_of_settings()

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        environ: dict[str, Any] = request.META
        outer = get_current()
        known: Any = environ.get(SCOPE_KEY)
        if outer is not None and known is outer and not outer.closed:
            outer.complete_options(self.options)
            outer.thread = get_ident()
            return self.get_response(request)
        options, respond = self.options, start_response_for(environ)
        used = connections.all(initialized_only=True)
        transactions = open_transactions(used)
        # Django's AsyncClient, in a TestCase.
        early = bool(transactions) and "wsgi.version" not in environ
        if any(c.allow_thread_sharing for c in used):
            # LiveServerTestCase, whose threads all use its connection.
            options = options._replace(inline=True)
        exchange = DjangoExchange(options, request, respond)
        exchange.thread = get_ident()
        environ[SCOPE_KEY] = exchange
        if "_bjoern" in sys.modules:
            prepare_request(environ)
        token = enter(exchange)
        try:
            response = self.get_response(request)
            if exchange.forked:
                end_fork()
            keep_scope(transactions, exchange)
            return exchange.answer_with(response, early)
        except BaseException as error:
            if exchange.forked:
                end_fork(error)
            exchange.abort(error)
            raise
        finally:
            leave(token)
