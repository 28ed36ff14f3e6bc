"""A site with the doctor's app at several paths, most of them wrong on purpose."""

from __future__ import annotations

from wsgi_defer import DeferMiddleware
from wsgi_defer.doctor import doctor_app

TOKEN = "a-token-of-the-tests-0123456789"
doctor = doctor_app(token=TOKEN, may_stop=True)


class Unclosed:
    """What a middleware gives the server that never closes what is inside of it."""

    def __init__(self, body):
        self.body = body

    def __iter__(self):
        """The items of the app."""
        return iter(list(self.body))


def unclosed(app):
    """A middleware of that kind."""
    return lambda environ, start_response: Unclosed(app(environ, start_response))


def collecting(app):
    """One that has read and closed the body before it sends any of it."""

    def middleware(environ, start_response):
        head = []
        body = app(environ, lambda *args: head.append(args))
        data = b"".join(body)
        getattr(body, "close", lambda: None)()
        start_response(*head[-1])
        return [data]

    return middleware


SITES = {
    "right": DeferMiddleware(doctor),
    "bare": doctor,
    "inline": DeferMiddleware(doctor, inline=True),
    "unclosed": unclosed(DeferMiddleware(doctor)),
    "collecting": collecting(DeferMiddleware(doctor, inline=True)),
}


def app(environ, start_response):
    """Each at its path."""
    return SITES[environ["PATH_INFO"].split("/")[1]](environ, start_response)
