"""The settings; INSTALLED_APPS, MIDDLEWARE and TASKS name wsgi_defer."""

import django

SECRET_KEY = "only for this example"
DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "shop"
INSTALLED_APPS = ["wsgi_defer.django"]
MIDDLEWARE = [
    "wsgi_defer.django.DeferMiddleware",  # the first one
    "django.middleware.common.CommonMiddleware",
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}

CONSOLE = "django.core.mail.backends.console.EmailBackend"  # prints mails
if django.VERSION >= (6, 1):
    MAILERS = {"default": {"BACKEND": CONSOLE}}
else:
    EMAIL_BACKEND = CONSOLE
if django.VERSION >= (6, 0):
    TASKS = {"default": {"BACKEND": "wsgi_defer.django.tasks.DeferBackend"}}
USE_TZ = True
