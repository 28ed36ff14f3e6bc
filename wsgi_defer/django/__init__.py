"""The Django app: two lines in the settings, and views call ``defer()``.

::

    INSTALLED_APPS = [..., "wsgi_defer.django"]
    MIDDLEWARE = ["wsgi_defer.django.DeferMiddleware", ...]  # the first one
    WSGI_DEFER = {"time_limit": 10}  # options of wsgi_defer.DeferMiddleware, if any
"""

from ._commits import defer_on_commit
from ._middleware import DeferMiddleware

__all__ = ["DeferMiddleware", "defer_on_commit"]
