"""``manage.py wsgi_defer_worker``, for jobs of the app's own."""

from __future__ import annotations

import signal
import subprocess
import sys

from ..helpers.waiting import OF_PROCESSES, until
from .site import Site

JOBS = """
from wsgi_defer.jobs import Jobs
from .models import Row

jobs = Jobs({url!r}, queue="own")

@jobs.handler("row.write")
def write(text):
    Row.objects.create(text=text)
"""
VIEWS = """
from django.db import transaction
from django.http import HttpResponse
from .jobs import jobs
from .models import Row

def order(request):
    with transaction.atomic():
        jobs.enqueue("row.write", "committed", after_commit=True)
    with transaction.atomic():
        jobs.enqueue("row.write", "rolled back", after_commit=True)
        transaction.set_rollback(True)
    jobs.enqueue("row.write", "held")
    return HttpResponse(status=int(request.GET["status"]))

def rows(request):
    return HttpResponse(" ".join(sorted(Row.objects.values_list("text", flat=True))))
"""


def test_jobs(tmp_path, redis):
    """They are stored if the transaction has committed and the response is a success,
    and have the database in their handlers."""
    site = Site(tmp_path, views=VIEWS, urls=["path('order', views.order)",
                "path('rows', views.rows)"],
                **{"shop/jobs.py": JOBS.format(url=redis.url)})  # fmt: skip
    site.make_tables()
    with site.gunicorn() as server:
        assert server.get("/order?status=404")[0] == 404
        assert server.get("/order?status=200")[0] == 200
        worker = subprocess.Popen(
            [sys.executable, "manage.py", "wsgi_defer_worker", "shop.jobs:jobs"],
            cwd=site.root, env=site.env,
        )  # fmt: skip
        try:
            until(lambda: server.get("/rows") == (200, "committed held"),
                  lambda: server.get("/rows"), OF_PROCESSES)  # fmt: skip
        finally:
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(OF_PROCESSES) == 0
        assert server.get("/rows") == (200, "committed held")


def test_mistakes(tmp_path):
    """They end it with one line."""
    site = Site(tmp_path, views="", urls=[], **{"shop/jobs.py": "jobs = 5\n"})
    told = site.manage("wsgi_defer_worker", "shop.jobs:jobs", status=1)
    assert "is not a Jobs object" in told
    assert "Traceback" not in site.manage("wsgi_defer_worker", status=1)
