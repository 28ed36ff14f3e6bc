"""The engines without us, each with its own worker, as its documentation has it.

Imported by the benchmark and by the workers, which find their ``app`` here, for the
engine that OWN names, on the URL in JOBS_URL.
"""

import os
import signal
import sys
import time
from pathlib import Path

NOTES = os.environ.get("NOTES", os.devnull)
QUEUE = "own"


def note(text):
    fd = os.open(NOTES, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{text} {time.time()}\n".encode())
    os.close(fd)


def waits(text):
    time.sleep(0.02)
    note(text)


FUNCTIONS = {"nothing": note, "waits": waits}


def script(name, *arguments):
    return [str(Path(sys.executable).with_name(name)), *arguments]


class Own:
    """An engine; ``commands()`` starts its worker, with that many processes."""

    order = signal.SIGTERM  # ends its worker

    def __init__(self, url):
        self.url = url

    def can(self, threads):
        """Whether one of its processes runs several jobs at a time."""
        return True


class OwnDbos(Own):
    """It has no command: a program launches it. Eight jobs at a time."""

    def commands(self, processes, threads):
        return [[sys.executable, __file__, str(number)] for number in range(processes)]

    def open(self):
        from dbos import DBOSClient

        from wsgi_defer.jobs import Jobs

        Jobs(self.url).status("x")  # write-ahead log, and tables
        client = DBOSClient(system_database_url=self.url, application_name="own-worker")
        return lambda name, text: client.enqueue(
            {"workflow_name": name, "queue_name": QUEUE}, text
        )

    @staticmethod
    def work(slot):
        from dbos import DBOS

        DBOS(config={"name": "own-worker", "executor_id": f"own-{slot}",
                     "system_database_url": os.environ["JOBS_URL"],
                     "log_level": "ERROR", "enable_otlp": False})  # fmt: skip
        for name, function in FUNCTIONS.items():
            DBOS.workflow(name=name)(function)
        DBOS.launch()
        DBOS.register_queue(QUEUE, worker_concurrency=8, polling_interval_sec=0.1)
        signal.sigwait([signal.SIGTERM])
        os._exit(0)


class OwnHuey(Own):
    """On SQLite. A job that runs when its worker is killed is lost."""

    order = signal.SIGINT  # TERM interrupts what runs

    def commands(self, processes, threads):
        kind = ["-w", str(threads), "-k", "thread"]
        if threads == 1:
            kind = ["-w", str(processes), "-k", "process"]
        consumer = [sys.executable, "-m", "huey.bin.huey_consumer"]
        return [[*consumer, "own.app", "--quiet", *kind]]

    def make(self):
        from huey import SqliteHuey

        app = SqliteHuey(QUEUE, filename=self.url.removeprefix("sqlite:///"))
        self.tasks = {
            name: app.task(name=name)(function) for name, function in FUNCTIONS.items()
        }
        return app

    def open(self):
        self.make()
        return lambda name, text: self.tasks[name](text)


class OwnRq(Own):
    """``rq worker``. It forks for each job, and has no threads."""

    def can(self, threads):
        return threads == 1

    def commands(self, processes, threads):
        command = script("rq", "worker", QUEUE, "--url", self.url, "--quiet")
        return [command] * processes

    def open(self):
        from redis import Redis
        from rq import Queue

        queue = Queue(QUEUE, connection=Redis.from_url(self.url))
        names = {"nothing": "own.note", "waits": "own.waits"}
        return lambda name, text: queue.enqueue(names[name], text)


class OwnCelery(Own):
    """``celery worker`` as installed: it acknowledges a message before its job runs."""

    safe = False

    def commands(self, processes, threads):
        kind = ["--pool", "threads"] if threads > 1 else ["--pool", "prefork"]
        number = str(max(processes, threads))
        return [[sys.executable, "-m", "celery", "--app", "own:app", "--quiet",
                 "worker", *kind, "--concurrency", number,
                 "--loglevel", "ERROR"]]  # fmt: skip

    def make(self):
        from celery import Celery

        app = Celery(broker=self.url, set_as_current=False)
        app.conf.task_default_queue = f"{QUEUE}-{type(self).__name__}"
        app.conf.task_ignore_result = True
        app.conf.broker_transport_options = {"confirm_publish": True}
        if self.safe:
            app.conf.task_acks_late = True
            app.conf.task_reject_on_worker_lost = True
            app.conf.worker_prefetch_multiplier = 1
            app.conf.task_default_queue_type = "quorum"
            app.conf.task_default_exchange_type = "topic"
        for name, function in FUNCTIONS.items():
            app.task(name=name)(function)
        return app

    def open(self):
        app = self.make()
        return lambda name, text: app.send_task(name, [text])


class OwnSafeCelery(OwnCelery):
    """With a quorum queue, and acknowledged afterwards, as ours."""

    safe = True


class OwnProcrastinate(Own):
    """``procrastinate worker``."""

    def commands(self, processes, threads):
        command = script("procrastinate", "--app", "own.app", "worker", "--queues",
                         QUEUE, "--concurrency", str(threads))  # fmt: skip
        return [command] * processes

    def make(self, connector=None):
        import procrastinate

        connector = connector or procrastinate.PsycopgConnector
        app = procrastinate.App(connector=connector(conninfo=self.url))
        self.tasks = {
            name: app.task(name=name, queue=QUEUE)(function)
            for name, function in FUNCTIONS.items()
        }
        return app

    def open(self):
        from procrastinate import SyncPsycopgConnector

        from wsgi_defer.jobs import Jobs

        Jobs(self.url).status("x")  # the tables
        self.make(SyncPsycopgConnector).open()
        return lambda name, text: self.tasks[name].defer(text=text)


ALL = {
    each.__name__: each
    for each in (OwnDbos, OwnHuey, OwnRq, OwnCelery, OwnSafeCelery, OwnProcrastinate)
}

if "OWN" in os.environ and hasattr(ALL[os.environ["OWN"]], "make"):
    app = ALL[os.environ["OWN"]](os.environ["JOBS_URL"]).make()

if __name__ == "__main__":
    OwnDbos.work(int(sys.argv[1]))
