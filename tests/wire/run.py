"""Servers that have no command line, or none that tells the port: a few lines each.

``python -m tests.wire.run NAME`` prints where it listens, and serves.
"""

from __future__ import annotations

import sys

HOST = "127.0.0.1"


def say(port):
    """Tell the tests where we listen."""
    print(f"Listening at: http://{HOST}:{port}", flush=True)


def werkzeug(threaded=False):
    """werkzeug's development server, as `flask run` starts it."""
    from werkzeug.serving import make_server

    from .app import app

    server = make_server(HOST, 0, app, threaded=threaded)
    say(server.port)
    server.serve_forever()


def werkzeug_threaded():
    """The same, with a thread for each connection."""
    werkzeug(threaded=True)


def wsgiref():
    """The standard library's."""
    from wsgiref.simple_server import make_server

    from .app import app

    with make_server(HOST, 0, app) as server:
        say(server.server_port)
        server.serve_forever()


def waitress():
    """waitress, with its four threads."""
    from waitress import create_server

    from .app import app

    server = create_server(app, listen=f"{HOST}:0")
    say(server.effective_port)
    server.run()


def cheroot():
    """CherryPy's server."""
    from cheroot.wsgi import Server

    from .app import app

    server = Server((HOST, 0), app, numthreads=4)
    server.prepare()
    say(server.bind_addr[1])
    server.serve()


def pywsgi():
    """gevent's own server, with everything patched."""
    from gevent import monkey

    monkey.patch_all()
    from gevent.pywsgi import WSGIServer

    from .app import app

    server = WSGIServer((HOST, 0), app, log=None)
    server.start()
    say(server.server_port)
    server.serve_forever()


def bjoern():
    """bjoern: one thread, and that is all."""
    import bjoern

    from .app import app

    sock = bjoern.bind_and_listen(HOST, 0)
    say(sock.getsockname()[1])
    bjoern.server_run(sock, app)


def uvicorn():
    """uvicorn, with a2wsgi between it and the app."""
    import socket

    import uvicorn
    from a2wsgi import WSGIMiddleware

    from .app import app

    sock = socket.create_server((HOST, 0))
    say(sock.getsockname()[1])
    config = uvicorn.Config(WSGIMiddleware(app), lifespan="off", log_level="warning")
    uvicorn.Server(config).run(sockets=[sock])


if __name__ == "__main__":
    globals()[sys.argv[1]]()
