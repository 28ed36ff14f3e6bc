"""Each test puts its own view here."""

from __future__ import annotations

from django.urls import path

views = {}


def page(request):
    return views["page"](request)


async def slow_page(request):
    return await views["page"](request)


urlpatterns = [path("", page, name="page"), path("async", slow_page)]
