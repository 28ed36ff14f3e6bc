"""A sign-up with a status page, which shows each mail while it is sent.

gunicorn -c gunicorn.conf.py examples.status_flask:app
open http://127.0.0.1:8000/status
curl http://127.0.0.1:8000/signup -d email=ada@example.org
python -m wsgi_defer top http://127.0.0.1:8000/status
"""

import random
import time

from flask import Flask, request
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from wsgi_defer import defer
from wsgi_defer.flask import Defer
from wsgi_defer.status import StatusPage, loopback_only

app = Flask(__name__)
Defer(app)
page = StatusPage(allow=loopback_only)
app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/status": page})


@app.post("/signup")
def signup():
    defer(send_welcome, request.form["email"])
    return "Welcome!\n", 201


def send_welcome(address):
    """Take some time, and fail now and then, as mail servers do."""
    time.sleep(random.uniform(1, 4))
    if random.random() < 0.1:
        raise ConnectionError("the mail server does not answer")


if __name__ == "__main__":
    app.run(port=8000)
