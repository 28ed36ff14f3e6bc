"""gunicorn's order to stop, as its signal handlers raise it."""

from __future__ import annotations


def _make(name, code):
    # The library knows it by the module of the frame that raises.
    module = {"__name__": "gunicorn.workers.base"}
    exec(f"import sys\ndef {name}(*args): sys.exit({code})", module)
    return module[name]


handle_abort = _make("handle_abort", 1)
handle_quit = _make("handle_quit", 0)
