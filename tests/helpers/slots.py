"""The slot for what is handed over, as a worker class of ours has it."""

from contextlib import contextmanager

from wsgi_defer._servers import handover


@contextmanager
def handed_over():
    """Open a slot, and none afterwards."""
    try:
        drains = []
        handover.set_slot(drains)
        yield drains
    finally:
        handover.set_slot(None)
