"""Bottle. Run it: python examples/bottle_app.py; serve it: gunicorn
examples.bottle_app"""

from bottle import Bottle, request

from wsgi_defer import DeferMiddleware, defer
from wsgi_defer.testing import exchange

shop = Bottle()


@shop.get("/signup/<name>")
def signup(name):
    # Bottle's request is of the thread: read what the call needs, and pass that.
    defer(send_mail, name, request.query.lang or "en")
    return f"Welcome, {name}!\n"


def send_mail(name, lang):
    print(f"mail sent to {name} ({lang})", flush=True)


application = DeferMiddleware(shop)

if __name__ == "__main__":
    print(exchange(application, "/signup/ada?lang=fr").body.decode(), end="")
