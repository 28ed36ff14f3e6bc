"""The page on traces tells the truth: its blocks run, and send what it says."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ..helpers.programs import HOME
from ..helpers.waiting import OF_PROCESSES

PAGE = Path(HOME, "docs", "traces.md").read_text()
BLOCKS = re.findall(r"```python\n# (.*?)\n(.*?)```", PAGE, re.DOTALL)
# A request, as of the commands on the page.
SIGN_UP = """
from werkzeug.test import Client
from shop import app
print(Client(app).post("/signup", buffered=True).status_code)
"""


def run(folder, program, **more):
    """Run a program in that folder; return what it has printed, and its log."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([HOME, *sys.path]), **more},
        capture_output=True, text=True, check=False, timeout=OF_PROCESSES,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def write(folder, name, holding):
    """Write the block of that name that has this text in it."""
    [code] = [code for each, code in BLOCKS if each == name and holding in code]
    (folder / name).write_text(code)


def test_opentelemetry(tmp_path):
    """Three spans, of which the call's is linked to the request's."""
    write(tmp_path, "shop.py", "Tracing")
    out, _ = run(tmp_path, SIGN_UP)
    status, spans = out.split("\n", 1)
    assert status == "201"
    decoder, found = json.JSONDecoder(), {}
    while spans.strip():
        span, end = decoder.raw_decode(spans.lstrip())
        spans = spans.lstrip()[end:]
        found[span["name"]] = span
    assert set(found) == {"POST /signup", "shop.send_mail", "smtp"}
    request, call = found["POST /signup"], found["shop.send_mail"]
    [link] = call["links"]
    assert link["context"]["span_id"] == request["context"]["span_id"]
    assert found["smtp"]["parent_id"] == call["context"]["span_id"]
    assert request["end_time"] <= call["start_time"]
    of_page = set(re.findall(r"`(wsgi_defer\.\w+|code\.\w+\.\w+)`", PAGE))
    assert set(call["attributes"]) <= of_page


class Ingest(BaseHTTPRequestHandler):
    """Takes what Sentry's SDK sends."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.bodies.append(body)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args):
        """Say nothing."""


def test_sentry(tmp_path):
    """One event and two transactions reach a server, by the SDK's own transport."""
    write(tmp_path, "shop.py", "sentry_sdk")
    with ThreadingHTTPServer(("127.0.0.1", 0), Ingest) as server:
        server.bodies = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        dsn = f"http://key@127.0.0.1:{server.server_port}/1"
        program = f"{SIGN_UP}\nimport sentry_sdk; sentry_sdk.flush(30)"
        out, log = run(tmp_path, program, SENTRY_DSN=dsn)
        server.shutdown()
        thread.join()
    assert out == "201\n"
    assert "call shop.send_mail failed" in log
    lines = [json.loads(line) for body in server.bodies for line in body.splitlines()]
    [event] = [line for line in lines if "exception" in line]
    [error] = event["exception"]["values"]
    assert error["type"] == "ConnectionRefusedError"
    assert error["mechanism"] == {"type": "wsgi_defer", "handled": False}
    assert event["user"]["id"] == "ada"
    assert event["request"]["url"].endswith("/signup")
    assert event["tags"]["wsgi_defer.call"] == "shop.send_mail"
    transactions = [line for line in lines if line.get("type") == "transaction"]
    transactions = [line for line in transactions if "transaction" in line]
    assert {each["transaction"] for each in transactions} == {
        "signup",
        "shop.send_mail",
    }
    traces = [each["contexts"]["trace"]["trace_id"] for each in transactions]
    assert traces == [event["contexts"]["trace"]["trace_id"]] * 2


APP = """
from flask import Flask
from werkzeug.test import Client
from wsgi_defer import defer
from wsgi_defer.flask import Defer
app = Flask("shop")
def fail():
    raise ValueError
@app.get("/")
def view():
    defer(work).named("mail")
    defer(fail).named("fails")
    defer(int).on_failure()
    return "done"
"""


def test_a_tool_of_ones_own(tmp_path):
    """Each line of the app's has the name of its call."""
    write(tmp_path, "call_name.py", "CallName")
    program = f"""{APP}
import logging
from call_name import CallName
def work():
    logging.getLogger("shop").warning("sent")
Defer(app, observers=[CallName()])
Client(app).get("/", buffered=True)
logging.getLogger("shop").warning("served")
"""
    _, log = run(tmp_path, program)
    assert "\nsent" not in log
    assert "mail: sent\n" in log
    assert "-: served\n" in log


# Agents, which are only where somebody has put them: see the extra "agents".


def test_elastic(tmp_path):
    """A transaction for each call, in one trace, and an error."""
    pytest.importorskip("elasticapm")
    write(tmp_path, "elastic.py", "elasticapm")
    program = f"""{APP}
import json, elasticapm
from elastic import Elastic
from elasticapm.contrib.flask import ElasticAPM
sent = []
apm = ElasticAPM(app, service_name="shop", metrics_interval="0s", central_config=False,
                 cloud_provider="none",
                 transport_class="elasticapm.transport.base.Transport")
def keep(kind, data, flush=False):
    sent.append([kind, data.get("name"), data["trace_id"]])
apm.client.queue = apm.client.tracer.queue_func = keep
def work():
    with elasticapm.capture_span("query"):
        pass
observer = Elastic()
Defer(app, observers=[observer])
Client(app).get("/", buffered=True)
print(json.dumps([sent, len(observer.traces)]))
"""
    sent, left = json.loads(run(tmp_path, program)[0])
    assert [each[:2] for each in sent] == [
        ["transaction", "GET /"],
        ["span", "query"],
        ["transaction", "mail"],
        ["error", None],
        ["transaction", "fails"],
    ]
    assert len({trace for _, _, trace in sent}) == 1
    assert left == 0


def test_new_relic(tmp_path):
    """A background transaction for each call, in one trace; no network is used."""
    pytest.importorskip("newrelic")
    write(tmp_path, "new_relic.py", "newrelic")
    program = f"""
import newrelic.agent
newrelic.agent.initialize()
newrelic.agent.register_application(timeout=30)
{APP}
import json
from new_relic import NewRelic
from newrelic.core.agent import agent_instance
sent, traces = [], []
agent_instance().application("shop").record_transaction = lambda data: sent.append(
    [data.name, data.type, [error.type for error in data.errors]])
def work():
    traces.append(newrelic.agent.current_transaction().trace_id)
@app.before_request
def before():
    work()
app.wsgi_app = newrelic.agent.WSGIApplicationWrapper(app.wsgi_app)
observer = NewRelic()
Defer(app, observers=[observer])
Client(app).get("/", buffered=True)
print(json.dumps([sent, len(set(traces)), len(observer.traces), len(observer.tasks)]))
"""
    out, _ = run(
        tmp_path, program, NEW_RELIC_DEVELOPER_MODE="true", NEW_RELIC_APP_NAME="shop",
        NEW_RELIC_LICENSE_KEY="0" * 40,
    )  # fmt: skip
    sent, *left = json.loads(out.splitlines()[-1])
    assert [each[1:] for each in sent] == [
        ["WebTransaction", []],
        ["OtherTransaction", []],
        ["OtherTransaction", ["builtins:ValueError"]],
    ]
    assert [each[0] for each in sent[1:]] == ["wsgi_defer/mail", "wsgi_defer/fails"]
    assert left == [1, 0, 0]


def test_scout(tmp_path):
    """A background transaction for each call, with its spans only."""
    pytest.importorskip("scout_apm")
    write(tmp_path, "scout.py", "scout_apm")
    program = f"""{APP}
import json, scout_apm.api
from scout import Scout
from scout_apm.core.tracked_request import TrackedRequest
from scout_apm.flask import ScoutApm
sent = []
TrackedRequest.finish = lambda self: sent.append(
    [[span.operation for span in self.complete_spans], "error" in self.tags])
app.config.update(SCOUT_MONITOR=True, SCOUT_CORE_AGENT_LAUNCH=False,
                  SCOUT_CORE_AGENT_DOWNLOAD=False)
ScoutApm(app)
def work():
    with scout_apm.api.instrument("query"):
        pass
Defer(app, observers=[Scout()])
Client(app).get("/", buffered=True)
print(json.dumps(sent))
"""
    view, mail, fails = json.loads(run(tmp_path, program)[0].splitlines()[-1])
    assert view[0][-1] == "Controller/__main__.view"
    assert mail == [["Custom/query", "Job/mail"], False]
    assert fails == [["Job/fails"], True]
