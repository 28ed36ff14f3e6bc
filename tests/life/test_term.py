"""TERM, and KILL before graceful_timeout is over: what the log says of the calls."""

from __future__ import annotations

import os
import re
import signal
from contextlib import suppress

import pytest

from . import CALLS
from .cell import FOR_EVER, ROWS, missing
from .gunicorns import configuration, running


@pytest.mark.ahead
@pytest.mark.parametrize("row", [row for row in ROWS if row.startswith("27-")])
def test_term_and_then_kill(row):
    """As docker does. Who reads the log sees how many calls there were, and the one
    that ran, though neither the master nor the worker has had time to name them."""
    if need := missing(row):
        pytest.skip(f"{need} is not installed: make services")
    version, worker, ours, app = ROWS[row]
    conf = configuration(worker, ours=ours, graceful_timeout=60)
    with running(conf, version=version, app=f"tests.life.app:{app}") as gunicorn:
        gunicorn.request(f"/calls?seconds={FOR_EVER}")
        pid = gunicorn.begun(CALLS[0])
        gunicorn.send(signal.SIGTERM)
        said = re.compile(
            rf"wsgi_defer: worker {pid} was told to stop and has 3 deferred calls to "
            rf"finish in \d\d\.\d s; running: {CALLS[0]} \(for \d+\.\d s\)$",
            re.MULTILINE,
        )
        gunicorn.until(lambda: said.search(gunicorn.log), "a word on the calls")
        gunicorn.stop(signal.SIGKILL)
        with suppress(ProcessLookupError):  # a gevent worker ends when its master does
            os.kill(pid, signal.SIGKILL)
        assert gunicorn.finished == set()
