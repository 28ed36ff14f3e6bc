"""An app with pools, for a real gunicorn. It notes what its tasks do, see ``app``."""

from __future__ import annotations

import asyncio
import os
from urllib.parse import parse_qsl

from wsgi_defer import DeferMiddleware, PoolTimeoutError, pool
from wsgi_defer.pools import AsyncPool, ProcessPool, ThreadPool

from . import BODY
from .app import ROOT, note, sleep

LONG = 60.0  # seconds of a task that nobody awaits


def long_task():
    """A task that is abandoned; in pieces, so that greenlets give way."""
    note("begun", "long-task")
    sleep(LONG)
    note("finished", "long-task")


def short_task():
    """One that its view awaits, in a process of a pool."""
    note("begun", "short-task")
    sleep(1.5)
    return "done"


def child_task():
    """The same, in a process of a pool."""
    note("begun", f"child-{os.getpid()}")
    sleep(300)


def meet():
    """Return when two children of this worker have run it: no one runs both tasks."""
    mine = f"met-{os.getppid()}-"
    (ROOT / f"{mine}{os.getpid()}").touch()
    while len(list(ROOT.glob(f"{mine}*"))) < 2:
        sleep(0.02)


async def long_coroutine():
    """The same, on a loop."""
    note("begun", "long-task")
    try:
        await asyncio.sleep(LONG)
    finally:
        note("finished", "long-task")


def view(environ, start_response):
    """Submit what the query says, and await nothing but what it says."""
    query = dict(parse_qsl(environ["QUERY_STRING"]))
    if name := query.get("abandon"):
        task = long_coroutine if name == "io" else long_task
        future = pool(name).submit(task)
        while not future.running():  # one that has not begun would be cancelled
            sleep(0.02)
    if seconds := query.get("await"):
        note("awaits", "view")
        try:
            pool("threads").submit(sleep, float(seconds)).result()
        except PoolTimeoutError as error:  # as a framework does
            text = str(error).encode()
            start_response("500 Oops", [("Content-Length", str(len(text)))])
            return [text]
    if "idle" in query:  # two children that have nothing to do
        for task in [pool("cpu").submit(meet) for _ in range(2)]:
            task.result()
    if "child" in query:
        assert pool("cpu").submit(short_task).result() == "done"
    if "busy" in query:
        for _ in range(2):
            pool("cpu").submit(child_task)
        while not (ROOT / "go").exists():  # the tasks end with this view
            sleep(0.02)
    start_response("200 OK", [("Content-Length", str(len(BODY)))])
    return [BODY]


POOLS = {"threads": ThreadPool(4), "cpu": ProcessPool(2), "io": AsyncPool(10)}
app = DeferMiddleware(view, pools=POOLS)
