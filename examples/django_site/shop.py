"""A sign-up: the client has its reply before the mail is sent."""

import time

import django
import status
from django.core.mail import send_mail
from django.http import HttpResponse
from django.urls import path

from wsgi_defer import defer


def welcome(address):
    """Send the mail, by a mail server that takes its time."""
    time.sleep(0.5)
    send_mail("Welcome", "Thanks for joining.", "shop@example.org", [address])


def signup(request):
    """``/signup?email=ada@example.org``"""
    address = request.GET.get("email")
    if not address:
        return HttpResponse("Which email?\n", status=400)  # a failure: no call runs
    defer(welcome, address)
    if django.VERSION >= (6, 0):
        import tasks

        tasks.count.enqueue(address)
    return HttpResponse(f"Welcome, {address}!\n")


urlpatterns = [path("signup", signup), *status.urlpatterns]
