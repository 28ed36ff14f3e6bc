"""Pyramid. Run it: python examples/pyramid_app.py; serve it: gunicorn
--paste examples/pyramid.ini"""

from pyramid.config import Configurator
from pyramid.response import Response

from wsgi_defer import DeferMiddleware, defer
from wsgi_defer.testing import exchange


def signup(request):
    # In a call, get_current_request() is None: pass what it needs. With pyramid_tm, the
    # transaction is committed by then; if that fails, the call does not run.
    name = request.matchdict["name"]
    defer(send_mail, name, request.params.get("lang", "en"))
    return Response(f"Welcome, {name}!\n")


def send_mail(name, lang):
    print(f"mail sent to {name} ({lang})", flush=True)


def main(global_config, **settings):
    """What the ini file calls; there, [filter:defer] is the middleware."""
    with Configurator(settings=settings) as config:
        config.add_route("signup", "/signup/{name}")
        config.add_view(signup, route_name="signup")
    return config.make_wsgi_app()


if __name__ == "__main__":
    application = DeferMiddleware(main({}))
    print(exchange(application, "/signup/ada?lang=fr").body.decode(), end="")
