"""Checks apps and servers for ``wsgi.response_finished``: see ``lint()``.

``python -m wsgi_defer.lint --server "gunicorn -b {bind} {app}"`` starts a server and
prints which promises it keeps. The rules are in ``docs/response_finished.md``.
"""

from ._lint import Lint, LintError

__all__ = ["Lint", "LintError", "lint"]

lint = Lint  # reads better as a middleware: application = lint(app)
