"""An app whose users have a queue already: plain Celery or RQ.

``OWN_URL`` is the URL of the broker, and ``OWN_TIMEOUT`` how long Celery waits for it.
"""

from __future__ import annotations

import os

from wsgi_defer import DeferMiddleware, before_response

URL = os.environ.get("OWN_URL", "")
TIMEOUT = float(os.environ.get("OWN_TIMEOUT", "20"))  # seconds

if URL.startswith("amqp"):
    from celery import Celery

    celery = Celery("own", broker=URL)
    celery.conf.update(task_default_queue="own", broker_connection_timeout=TIMEOUT)

    @celery.task
    def note(number):
        """Write it down."""
        _note(number)

    enqueue = note.delay
elif URL:
    import redis
    import rq

    queue = rq.Queue("own", connection=redis.Redis.from_url(URL))

    def enqueue(number):
        """Have RQ write it down."""
        return queue.enqueue(_note, number)


def _note(number):
    with open(os.environ["JOBS_NOTES"], "a") as file:
        file.write(f"{number}\n")


def view(environ, start_response):
    """Enqueue the number in the path; an odd one fails afterwards."""
    number = int(environ["PATH_INFO"].strip("/"))
    before_response(enqueue, number)
    if number % 2:
        raise RuntimeError("after its enqueue")
    start_response("202 Accepted", [("Content-Length", "0")])
    return [b""]


app = DeferMiddleware(view)
