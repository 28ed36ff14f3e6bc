"""Twenty HTTP requests at once inside one request, on the asyncio pool.

    pip install httpx
    python examples/parallel_http.py

The requests go to a small server that the program starts itself. Each takes a tenth of
a second.
"""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from wsgiref.util import setup_testing_defaults

import httpx

from wsgi_defer import DeferMiddleware, gather, pool
from wsgi_defer.pools import AsyncPool


class Slow(BaseHTTPRequestHandler):
    """Answers slowly, with the path."""

    def do_GET(self):
        time.sleep(0.1)
        body = self.path.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 50


async def fetch(url):
    # Loading the certificates takes longer than all the rest, and TLS is not used here.
    async with httpx.AsyncClient(timeout=10, verify=False) as client:
        response = await client.get(url)
        response.raise_for_status()
        return response.text


def page(environ, start_response):
    home = environ["example.home"]
    io = pool("io")
    texts = gather([io.submit(fetch, f"{home}/{number}") for number in range(20)])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [" ".join(texts).encode() + b"\n"]


app = DeferMiddleware(page, pools={"io": AsyncPool(100, max_wait=30)})

if __name__ == "__main__":
    with Server(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environ = {"example.home": f"http://127.0.0.1:{server.server_port}"}
        setup_testing_defaults(environ)
        began = time.monotonic()
        body = app(environ, lambda status, headers, exc_info=None: None)
        print(b"".join(body).decode(), end="")
        print(f"20 requests of 0.1 s in {time.monotonic() - began:.1f} s")
        server.shutdown()
