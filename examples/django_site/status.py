"""The status page at ``/status``, for requests from this machine: docs/status.md."""

from django.http import HttpResponse
from django.urls import re_path
from django.views.decorators.csrf import csrf_exempt

from wsgi_defer.status import StatusPage, loopback_only

page = StatusPage(allow=loopback_only)


@csrf_exempt  # its forms have a token of their own
def status(request, below):
    start = []
    environ = {**request.environ, "PATH_INFO": below or ""}
    body = b"".join(page(environ, lambda *given: start.extend(given)))
    return HttpResponse(body, status=int(start[0][:3]), headers=dict(start[1]))


urlpatterns = [re_path("^status(/.*)?$", status)]
