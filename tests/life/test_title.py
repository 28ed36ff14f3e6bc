"""What ps shows of a worker while it runs calls after their responses."""

from __future__ import annotations

from pathlib import Path

import pytest

from .gunicorns import configuration, running
from .test_hooks import skip_if_missing

# A call runs until the test lets it end. Its name has characters that would harm.
APP = """
import time

from tests.life.app import ROOT, note
from wsgi_defer import DeferMiddleware, defer

def run(name):
    note("begun", name)
    while not (ROOT / f"end-{name}").exists():
        time.sleep(0.01)

def view(environ, start_response):
    name = environ["PATH_INFO"][1:]
    defer(run, name).named(f"{name}\\x1b\\n!")
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]

app = DeferMiddleware(view)
"""


def title(pid):
    """As ps shows it: the arguments of the process, which it may overwrite."""
    shown = Path(f"/proc/{pid}/cmdline").read_bytes()
    return shown.rstrip(b"\0").decode()


@pytest.mark.ahead
@pytest.mark.parametrize(
    ("worker", "version"), [("sync", "20.1.0"), ("gthread", None)], ids=["20", "27"]
)
def test_the_title_names_the_call(worker, version):
    """That was the last to start, and is the old one when none runs any more."""
    skip_if_missing(version=version)
    conf = configuration(worker, ours=True, proc_name="shop")
    files = {"titled.py": APP}
    with running(conf, version=version, app="titled:app", files=files) as gunicorn:

        def shows(pid, text):
            expected = f"gunicorn: worker [shop]{text}"
            gunicorn.until(lambda: title(pid) == expected, expected)

        def end(name):
            (gunicorn.root / f"end-{name}").touch()

        gunicorn.request("/first")
        pid = gunicorn.begun("first")
        shows(pid, r" after response: first\x1b\n!")
        if worker == "gthread":
            gunicorn.request("/second")
            assert gunicorn.begun("second") == pid
            shows(pid, r" after response: second\x1b\n!")
            end("second")
            shows(pid, r" after response: first\x1b\n!")
        end("first")
        shows(pid, "")
