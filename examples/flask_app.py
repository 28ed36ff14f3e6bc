"""A sign-up that answers at once and sends the mail afterwards.

    gunicorn                                             (reads gunicorn.conf.py)
    curl -i http://127.0.0.1:8000/signup -d email=ada@example.org

The mail goes to a slow mail server, which this example starts itself. That is a
debugging server: it delivers nothing.
"""

import functools
import logging
import smtplib
import socket
import sys
import time
from email.message import EmailMessage

from aiosmtpd.controller import Controller
from flask import Flask, abort, request, url_for

from wsgi_defer import defer
from wsgi_defer.flask import Defer

app = Flask(__name__)
Defer(app)

log = logging.getLogger("example")
log.setLevel(logging.INFO)
log.addHandler(logging.StreamHandler(sys.stdout))
log.handlers[0].setFormatter(
    logging.Formatter("%(created).3f worker %(process)d: %(message)s")
)


@app.post("/signup")
def signup():
    email = request.form.get("email", "")
    if "@" not in email:
        defer(log.info, "never: the mail of a sign-up that failed")
        abort(400, "An e-mail address, please.")
    defer(send_welcome, email)
    defer(log.info, "call 2: counted the sign-up from %s", request.remote_addr)
    return f"Welcome, {email}!\n", 201


def send_welcome(email):
    log.info("call 1: the mail to %s begins", email)
    mail = EmailMessage()
    mail["From"], mail["To"] = "shop@example.org", email
    mail["Subject"] = "Welcome"
    mail.set_content(f"Your page is {url_for('user', email=email, _external=True)}")
    with smtplib.SMTP("127.0.0.1", mail_server_port()) as server:
        server.send_message(mail)
    log.info("call 1: the mail server has taken it")


@app.get("/users/<email>")
def user(email):
    return f"This is {email}.\n"


class SlowMailServer:
    async def handle_DATA(self, server, session, envelope):  # noqa: N802
        time.sleep(0.5)
        return "250 Taken"


@functools.cache
def mail_server_port():
    """Start the mail server when it is first needed: in the worker, after the fork."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    Controller(SlowMailServer(), hostname="127.0.0.1", port=port).start()
    return port


if __name__ == "__main__":
    app.run(port=8000)
