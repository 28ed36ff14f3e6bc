"""A page that asks three slow services at once, one of them down, within a deadline.

    python examples/price_page.py

The services are three slow functions. Each runs on the pool ``external_api``; the page
waits for half a second at most, and does without what has not arrived by then.
"""

import time
from concurrent.futures import TimeoutError as FutureTimeout
from wsgiref.util import setup_testing_defaults

from wsgi_defer import DeferMiddleware, pool
from wsgi_defer.pools import ThreadPool

DEADLINE = 0.5  # seconds, for the whole page


def fetch_price(item):
    time.sleep(0.2)
    return "19.90"


def fetch_stock(item):
    time.sleep(0.3)
    return "7 left"


def fetch_reviews(item):
    time.sleep(60)  # it is down


def page(environ, start_response):
    item = environ["PATH_INFO"].strip("/")
    deadline = time.monotonic() + DEADLINE
    api = pool("external_api")
    parts = {
        "price": api.submit(fetch_price, item),
        "stock": api.submit(fetch_stock, item),
        "reviews": api.submit(fetch_reviews, item),
    }
    lines = [f"{item}\n"]
    for name, part in parts.items():
        try:
            text = part.result(timeout=max(0, deadline - time.monotonic()))
        except FutureTimeout:
            # It ends with the request, and nobody waits for it.
            text = "not available just now"
        lines.append(f"{name}: {text}\n")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [line.encode() for line in lines]


app = DeferMiddleware(page, pools={"external_api": ThreadPool(16, max_wait=10)})

if __name__ == "__main__":
    environ = {"PATH_INFO": "/teapot"}
    setup_testing_defaults(environ)
    began = time.monotonic()
    body = app(environ, lambda status, headers, exc_info=None: None)
    print(b"".join(body).decode(), end="")
    print(f"after {time.monotonic() - began:.1f} s")
