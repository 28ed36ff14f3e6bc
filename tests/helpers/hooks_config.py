"""A configuration for gunicorn with our hooks."""

from wsgi_defer.gunicorn import install

install(globals())
