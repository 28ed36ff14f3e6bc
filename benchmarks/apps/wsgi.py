"""WSGI, without a framework."""

from concurrent.futures import ThreadPoolExecutor
from functools import cache

from werkzeug.wsgi import ClosingIterator

from wsgi_defer import DeferMiddleware, defer

from . import BODY, no_op

HEADERS = [("Content-Type", "text/plain"), ("Content-Length", "100")]


def bare(environ, start_response):
    start_response("200 OK", HEADERS)
    return [BODY]


class Identity:
    """What every middleware costs."""

    def __init__(self, app):
        self.app = app

    def __call__(self, environ, start_response):
        return self.app(environ, start_response)


def deferring(environ, start_response):
    defer(no_op)
    return bare(environ, start_response)


def closing(environ, start_response):
    return ClosingIterator(bare(environ, start_response), no_op)


@cache
def executor():
    """One for each worker: a thread does not survive the fork."""
    return ThreadPoolExecutor(1)


def submitting(environ, start_response):
    executor().submit(no_op)
    return bare(environ, start_response)


identity = Identity(bare)
nothing = DeferMiddleware(bare)
one = DeferMiddleware(deferring)
