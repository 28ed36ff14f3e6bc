"""A chain of deferred calls: each gets the result of the one before it.

Run it: ``python examples/promise_chain.py``. It sends itself three requests. They show
what runs before the response, what runs after it, and what becomes of a failure.
"""

import logging
from wsgiref.util import setup_testing_defaults

from wsgi_defer import DeferMiddleware, defer

ORDERS = {"1": 20, "2": 30}


def load(order):
    print("  load order", order)
    return ORDERS[order]


def add_tax(price):
    print("  add tax")
    return round(price * 1.19, 2)


def send_invoice(price):
    print(f"  send an invoice over {price}")


def apologize(error):
    print(f"  apologize: there is no order {error}")


def shop(environ, start_response):
    order = environ["QUERY_STRING"]
    price = defer(load, order).then(add_tax)
    price.then(send_invoice).catch(apologize).finally_(lambda: print("  done"))
    text = "thanks\n"
    if environ["PATH_INFO"] == "/price":
        # Needed for the response, so it runs now, after the call before it. It does
        # not run again afterwards.
        text = f"that will be {price.result()}\n"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [text.encode()]


app = DeferMiddleware(shop)


def get(path, query):
    """Be the server for one request."""
    environ = {"PATH_INFO": path, "QUERY_STRING": query}
    setup_testing_defaults(environ)
    print(f"GET {path}?{query}")
    body = app(environ, lambda status, headers, exc_info=None: None)
    for chunk in body:
        print("response:", chunk.decode(), end="")
    body.close()


if __name__ == "__main__":
    logging.basicConfig()
    get("/buy", "1")
    get("/price", "2")
    get("/buy", "3")
