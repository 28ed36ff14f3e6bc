"""Falcon. Run it: python examples/falcon_app.py; serve it: gunicorn
examples.falcon_app"""

import falcon

from wsgi_defer import DeferMiddleware, defer
from wsgi_defer.testing import exchange


class Signup:
    def on_get(self, req, resp, name):
        # req is no global: the call has what it is given, and may be given req itself.
        defer(send_mail, name, req.get_param("lang", default="en"))
        resp.text = f"Welcome, {name}!\n"


def send_mail(name, lang):
    print(f"mail sent to {name} ({lang})", flush=True)


shop = falcon.App()
shop.add_route("/signup/{name}", Signup())
application = DeferMiddleware(shop)

if __name__ == "__main__":
    print(exchange(application, "/signup/ada?lang=fr").body.decode(), end="")
