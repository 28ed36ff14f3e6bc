"""Django, by itself and with what runs something after its responses."""

from types import ModuleType

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path

from wsgi_defer import DeferMiddleware, defer

from . import BODY, no_op

urls = ModuleType("urls")
settings.configure(SECRET_KEY="none", ALLOWED_HOSTS=["*"], ROOT_URLCONF=urls)

import after_response  # noqa: E402  # reads the settings
import after_response.signals  # noqa: E402  # as its app does: it runs the calls

later = after_response.enable(no_op)


def answer(request):
    return HttpResponse(BODY, content_type="text/plain")


def answer_and_enable(request):
    later.after_response()
    return answer(request)


def answer_and_defer(request):
    defer(no_op)
    return answer(request)


urls.urlpatterns = [
    path("", answer),
    path("after_response", answer_and_enable),
    path("defer", answer_and_defer),
]
bare = get_wsgi_application()
deferring = DeferMiddleware(bare)
