"""Reports that take a while: the client gets an id at once, and looks later.

    cd examples
    python -m wsgi_defer.jobs worker report_service:jobs &
    gunicorn report_service:app
    curl -i http://127.0.0.1:8000/reports -d month=2026-10
    curl http://127.0.0.1:8000/jobs/ID
    python -m wsgi_defer.jobs failed report_service:jobs

If there is no file of orders for a month, its job fails. Add the file, such as
orders-2026-10.csv with a line like "ada,30" for each order. Then `python -m
wsgi_defer.jobs retry report_service:jobs ID` builds the report.
"""

import csv
import re
import time
from pathlib import Path

from flask import Flask, abort, request

from wsgi_defer.flask import Defer
from wsgi_defer.jobs import Jobs
from wsgi_defer.jobs.flask import accepted, status_blueprint

app = Flask(__name__)
Defer(app)
jobs = Jobs("sqlite:///reports.db")  # in the current directory
jobs.init_app(app)
app.register_blueprint(status_blueprint(jobs, show_errors=True), url_prefix="/jobs")


@app.post("/reports")
def reports():
    month = request.form.get("month", "")
    if not re.fullmatch(r"\d{4}-\d\d", month):
        abort(400, "A month, please, like 2026-10.")
    # Stored just before the response starts; if that fails, this becomes a 503.
    return accepted(jobs.enqueue("report.build", {"month": month}))


@jobs.handler("report.build", attempts=2, backoff=1)
def build(payload):
    with Path(f"orders-{payload['month']}.csv").open(newline="") as file:
        amounts = [int(amount) for _, amount in csv.reader(file)]
    time.sleep(1)  # it is a thorough report
    return {"orders": len(amounts), "total": sum(amounts)}
