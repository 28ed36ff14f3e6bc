"""Werkzeug alone. Run it: python examples/werkzeug_app.py; serve it: gunicorn
examples.werkzeug_app"""

from werkzeug.wrappers import Request, Response

from wsgi_defer import DeferMiddleware, defer
from wsgi_defer.testing import exchange


@Request.application
def shop(request):
    # request is no global: the call has what it is given.
    name = request.path.rpartition("/")[2]
    defer(send_mail, name, request.args.get("lang", "en"))
    return Response(f"Welcome, {name}!\n")


def send_mail(name, lang):
    print(f"mail sent to {name} ({lang})", flush=True)


application = DeferMiddleware(shop)

if __name__ == "__main__":
    print(exchange(application, "/signup/ada?lang=fr").body.decode(), end="")
