"""Flask, by itself and with what runs something after its responses."""

from flask import Flask, Response
from flask_executor import Executor

from wsgi_defer import defer
from wsgi_defer.flask import Defer

from . import BODY, no_op


def site(view):
    app = Flask(__name__)
    app.add_url_rule("/", "view", view)
    return app


def answer():
    return Response(BODY, mimetype="text/plain")


def answer_and_call_on_close():
    response = answer()
    response.call_on_close(no_op)
    return response


def answer_and_submit():
    executor.submit(no_op)
    return answer()


def answer_and_defer():
    defer(no_op)
    return answer()


bare = site(answer)
call_on_close = site(answer_and_call_on_close)
submitting = site(answer_and_submit)
executor = Executor(submitting)
nothing = site(answer)
Defer(nothing)
one = site(answer_and_defer)
Defer(one)
