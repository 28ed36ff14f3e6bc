"""Work after the response in a bare WSGI app.

    gunicorn examples.hello:app
    curl http://127.0.0.1:8000/

The reply comes at once; the line on the terminal comes a second later.
"""

import os
import time
from wsgiref.simple_server import make_server

from wsgi_defer import DeferMiddleware, defer


def work(path):
    time.sleep(1)
    print(f"worker {os.getpid()}: done with {path}", flush=True)


def hello(environ, start_response):
    defer(work, environ["PATH_INFO"])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"Thanks, we are on it.\n"]


app = DeferMiddleware(hello)

if __name__ == "__main__":
    with make_server("127.0.0.1", 8000, app) as server:
        print("http://127.0.0.1:8000/", flush=True)
        server.serve_forever()
