"""Looks at a deployment from outside, through its real proxies: ``doctor_app()``.

Mount it, and run ``python -m wsgi_defer doctor URL``; see ``docs/doctor.md``.
"""

from ._app import doctor_app

__all__ = ["doctor_app"]
