"""What `jobs.enqueue()` costs, compared with the engine's own call.

All in one process, in turns, with the same server. The servers are those of the tests,
started for this; what is not installed is left out, by name.
"""

import importlib.util
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import pytest

from tests.engines.services import Postgres, Rabbit, Redis
from wsgi_defer.jobs import Jobs

CALLS = 300  # of each
PAYLOAD = {"to": "ada@example.org", "name": "Ada Lovelace", "items": [1, 2, 3]}


def dbos(folder):
    from dbos import DBOSClient

    Jobs(f"sqlite:///{folder}/own.db").status("x")  # write-ahead log, and tables
    client = DBOSClient(system_database_url=f"sqlite:///{folder}/own.db")
    client.register_queue("own")
    options = {"workflow_name": "own", "queue_name": "own"}
    return f"sqlite:///{folder}/jobs.db", lambda: client.enqueue(options, PAYLOAD)


def rq(server):
    from redis import Redis as Client
    from rq import Queue

    queue = Queue("own", connection=Client.from_url(server.url), serializer="json")
    return server.url, lambda: queue.enqueue("math.sqrt", PAYLOAD)


def celery(server):
    from celery import Celery

    app = Celery(broker=server.url, set_as_current=False)
    app.conf.broker_transport_options = {"confirm_publish": True}
    app.conf.task_default_queue = "own"
    app.conf.task_default_queue_type = "quorum"
    return server.url, lambda: app.send_task("own", [PAYLOAD])


def procrastinate(server):
    from procrastinate import App, SyncPsycopgConnector

    url = server.database("own")
    app = App(connector=SyncPsycopgConnector(conninfo=url))
    app.open()
    Jobs(url).status("x")  # the tables
    own = app.configure_task("own", queue="own")
    return url, lambda: own.defer(payload=PAYLOAD)


def measure(url, own):
    jobs = Jobs(url)
    jobs.handler("mail.welcome", attempts=5)(print)
    ours, theirs = [], []
    for call in range(CALLS + 20):
        for enqueue, times in ((lambda: jobs.enqueue("mail.welcome", PAYLOAD), ours),
                               (own, theirs)):  # fmt: skip
            start = time.perf_counter()
            enqueue()
            if call >= 20:
                times.append(time.perf_counter() - start)
    jobs.engine.close()
    return ours, theirs


def show(title, ours, theirs):
    print(f"\n{title}:")
    for name, times in (("jobs.enqueue()", ours), ("the engine's own call", theirs)):
        p50, p99 = (statistics.quantiles(times, n=100)[n] * 1e3 for n in (49, 98))
        print(f"  {name:28} p50 {p50:7.2f} ms   p99 {p99:7.2f} ms")
    ratio = statistics.median(ours) / statistics.median(theirs)
    print(f"  {'ratio of the medians':28}     {ratio:7.2f}", flush=True)


def main():
    engines = [("DBOS on SQLite", dbos, None), ("RQ on Redis", rq, Redis),
               ("Procrastinate on Postgres", procrastinate, Postgres),
               ("Celery on RabbitMQ", celery, Rabbit)]  # fmt: skip
    print(f"Storing a job, {CALLS} times:")
    for title, make, server in engines:
        if importlib.util.find_spec(make.__name__) is None:
            print(f"\n{title}: {make.__name__} is not installed")
            continue
        try:
            if server is None:
                with tempfile.TemporaryDirectory() as folder:
                    show(title, *measure(*make(folder)))
                continue
            server.skip_unless_installed()
            running = server()
            try:
                show(title, *measure(*make(running)))
            finally:
                running.close()
        except (pytest.skip.Exception, ValueError) as reason:
            print(f"\n{title}: {reason}")


if __name__ == "__main__":
    main()
