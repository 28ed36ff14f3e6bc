"""gunicorn's order to stop, as its signal handlers raise it."""

from __future__ import annotations


def _make():
    # The library knows it by the module of the frame that raises.
    module = {"__name__": "gunicorn.workers.base"}
    exec("import sys\ndef handle_abort(*args): sys.exit(1)", module)
    return module["handle_abort"]


handle_abort = _make()
