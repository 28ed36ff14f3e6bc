"""A Django project in a directory of its own, and the commands that run it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from contextlib import contextmanager

from ..helpers.programs import HOME
from ..helpers.waiting import OF_PROCESSES, until
from ..wire.servers import free_port

MANAGE = """
import os, sys
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""
WSGI = """
import os
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
from django.core.wsgi import get_wsgi_application
application = get_wsgi_application()
"""
SETTINGS = """
SECRET_KEY = "x"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "shop.urls"
INSTALLED_APPS = [
    "django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions",
    "wsgi_defer.django", "shop",
]
MIDDLEWARE = [
    "wsgi_defer.django.DeferMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}}
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
STATIC_URL = "static/"
USE_TZ = True
"""
MODELS = """
from django.db import models

class Row(models.Model):
    text = models.TextField()
"""


class Site:
    """What ``startproject`` and ``startapp`` make, as small as it can be."""

    def __init__(self, root, *, settings="", views, urls, **files):
        self.root = root
        given = {
            "manage.py": MANAGE,
            "wsgi.py": WSGI,
            "settings.py": SETTINGS + textwrap.dedent(settings),
            "shop/__init__.py": "",
            "shop/models.py": MODELS,
            "shop/views.py": views,
            "shop/urls.py": "from django.urls import path\nfrom . import views\n"
            f"urlpatterns = [{', '.join(urls)}]\n",
            **files,
        }
        for name, text in given.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))

    @property
    def env(self):
        return {**os.environ, "PYTHONPATH": os.pathsep.join([str(self.root), HOME])}

    def manage(self, *words, status=0):
        """Run ``manage.py``; return all that it printed."""
        done = subprocess.run(
            [sys.executable, "manage.py", *words], cwd=self.root, env=self.env,
            capture_output=True, text=True, timeout=OF_PROCESSES, check=False,
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def make_tables(self):
        self.manage("makemigrations", "shop")
        self.manage("migrate")

    @contextmanager
    def gunicorn(self, *options):
        """Serve it; yields the server."""
        command = ["-m", "gunicorn", "wsgi:application", *options, "--bind"]
        with self.served(command) as server:
            yield server

    @contextmanager
    def served(self, command):
        """Run what takes an address as its last argument."""
        server = Server(self)
        with (self.root / "output").open("w") as output:
            process = subprocess.Popen(
                [sys.executable, *command, f"127.0.0.1:{server.port}"],
                cwd=self.root, env=self.env, stdout=output, stderr=output,
            )  # fmt: skip
        try:
            until(server.answers, lambda: self.output, OF_PROCESSES)
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(OF_PROCESSES)

    @property
    def output(self):
        return (self.root / "output").read_text()


class Server:
    """Where the site is served."""

    def __init__(self, site):
        self.site = site
        self.port = free_port()

    def answers(self):
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0

    def get(self, path="/"):
        """The status and the body."""
        url = f"http://127.0.0.1:{self.port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=OF_PROCESSES) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
