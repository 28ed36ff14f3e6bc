"""The warning for a Flask app whose calls run without Flask's contexts.

It imports no Flask: an app of Flask's has done so.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any
from weakref import WeakSet

from .._calls.call import Call
from .._runtime import events, report

_told: WeakSet[Any] = WeakSet()  # apps


def warn_of_bare_flask(calls: Iterable[Call]) -> None:
    """Warn once for each app, if one of the calls was deferred in a Flask app.

    For calls with nothing around them. Seen by their context, whatever wraps the app.
    """
    variable = getattr(sys.modules.get("flask.globals"), "_cv_app", None)
    if variable is None:
        return
    for call in list(calls):  # other threads may add some
        app = getattr(call.own_context().get(variable), "app", None)
        if app is not None and app not in _told:
            _told.add(app)
            report.log(
                events.BARE_FLASK,
                "calls of the Flask app %r run without a context of their own: no "
                "teardown function runs after them, so each may leave a database "
                "connection open. Instead of DeferMiddleware(app), write Defer(app)"
                ", from wsgi_defer.flask", app.name, facts={"app": app.name},
            )  # fmt: skip
