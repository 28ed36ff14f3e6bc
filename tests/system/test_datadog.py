"""Datadog's tracer, if it is installed: what a call does is in its request's trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from importlib.util import find_spec

import pytest

from ..helpers.programs import HOME

pytestmark = pytest.mark.skipif(not find_spec("ddtrace"), reason="no ddtrace here")

# The spans by trace, as [name, parent's name], of a request with two calls that make
# two queries each.
PROGRAM = """
    import json, sqlite3, sys
    from ddtrace import patch
    from ddtrace.trace import TraceFilter, tracer

    patch(flask=True, sqlite3=True)
    chunks = []

    class Keep(TraceFilter):
        def process_trace(self, trace):
            chunks.append(trace)

    tracer.configure(trace_processors=[Keep()])
    from flask import Flask
    from werkzeug.test import Client
    from wsgi_defer import defer
    from wsgi_defer.flask import Defer

    app = Flask("shop")
    Defer(app)
    if sys.argv[1] == "teardown":
        @app.teardown_appcontext
        def close(error):
            pass

    def call():
        connection = sqlite3.connect(":memory:")
        connection.execute("select 1").fetchall()
        connection.execute("select 2").fetchall()
        connection.close()

    @app.get("/")
    def view():
        defer(call)
        defer(call)
        return "ok"

    Client(app).get("/", buffered=True)
    tracer.flush()
    spans = [span for chunk in chunks for span in chunk]
    names = {span.span_id: span.name for span in spans}
    traces = {}
    for span in spans:
        traces.setdefault(str(span.trace_id), []).append(
            [span.name, names.get(span.parent_id)])
    print(json.dumps(list(traces.values())))
"""


@pytest.mark.parametrize("teardown", ["none", "teardown"])
def test_a_call_is_in_the_trace_of_its_request(teardown):
    """It has a span, in which are its queries, and teardown functions; contexts of ours
    without user code leave no span."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), teardown],
        capture_output=True, text=True, check=True, cwd=HOME, timeout=120,
        env={**os.environ, "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
             "DD_REMOTE_CONFIGURATION_ENABLED": "false"},
    )  # fmt: skip
    [trace] = json.loads(result.stdout.splitlines()[-1])
    assert trace.count(["wsgi_defer.call", "__main__.view"]) == 2
    assert trace.count(["sqlite.query", "wsgi_defer.call"]) == 4
    assert [name for name, parent in trace if parent is None] == ["flask.request"]
    of_calls = [name for name, parent in trace if parent == "wsgi_defer.call"]
    spans = of_calls.count("flask.do_teardown_appcontext")
    assert spans == (2 if teardown == "teardown" else 0)
    assert "flask.do_teardown_request" not in of_calls
