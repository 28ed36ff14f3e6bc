"""A site for the tests: its settings, and views that defer."""

from __future__ import annotations

import django
from django.conf import settings

DEFER = "wsgi_defer.django.DeferMiddleware"


def set_up():
    """Configure Django, once in this process."""
    if settings.configured:
        return
    settings.configure(
        SECRET_KEY="x",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=f"{__package__}.urls",
        INSTALLED_APPS=[
            "django.contrib.contenttypes",
            "django.contrib.auth",
            "django.contrib.sessions",
            "wsgi_defer.django",
        ],
        MIDDLEWARE=[
            DEFER,
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": "file:unit?mode=memory&cache=shared",
            }
        },
        TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates"}],
        USE_TZ=True,
    )
    django.setup()
