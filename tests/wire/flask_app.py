"""A Flask app whose calls look at their request."""

from __future__ import annotations

import flask

from wsgi_defer import defer
from wsgi_defer.flask import Defer

from .app import log

app = flask.Flask(__name__)
Defer(app)


@app.route("/<key>", methods=["GET", "POST"])
def view(key):
    """``form``: the view reads it. ``part``: the view reads a part of the body."""
    if key.startswith("form"):
        assert flask.request.form["a"] == "1"
    if key.startswith("part"):
        flask.request.stream.read(2)
    for number in range(5):
        defer(look, key, number)
    return "hello"


def look(key, number):
    """Note what the request says now."""
    try:
        form = flask.request.form.to_dict() if flask.request.method == "POST" else {}
    except Exception as error:
        form = str(error)
    flask.current_app.logger.error("a line of %s %s", key, number)
    log(key, "looked", url=flask.request.url, form=form,
        stale=flask.request.headers.get("X-Stale"))  # fmt: skip
