"""What a request costs with the middleware, beside what it is compared with.

All figures come from one run of one process, so compare them with each other and not
with another machine's. Each is the median of several rounds, taken in turn, so that a
machine that changes its speed changes it for all.
"""

import asyncio
import gc
import multiprocessing
import platform
import resource
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

from werkzeug.wsgi import ClosingIterator

from wsgi_defer import DeferMiddleware, defer, deferring, gather, pool
from wsgi_defer._runtime import host, recording
from wsgi_defer.gunicorn._host import GunicornHost
from wsgi_defer.ledger import Ledger
from wsgi_defer.observers._observers import observe_process, stop_observing
from wsgi_defer.pools import AsyncPool, ProcessPool, ThreadPool

ROUNDS = 15
HEADERS = [("Content-Type", "text/plain"), ("Content-Length", "100")]


def no_op():
    pass


def list_app(environ, start_response):
    start_response("200 OK", HEADERS)
    return [b"x" * 100]


def generator_app(chunks):
    def app(environ, start_response):
        start_response("200 OK", HEADERS)
        return (b"x" for _ in range(chunks))

    return app


def deferring_app(environ, start_response):
    defer(no_op)
    return list_app(environ, start_response)


def closing(app):
    """The smallest middleware that runs something at the end of the response."""

    def middleware(environ, start_response):
        return ClosingIterator(app(environ, start_response), no_op)

    return middleware


def start_response(status, headers, exc_info=None):
    return no_op


def serve(app, times):
    """Be the server for some requests."""
    for _ in range(times):
        body = app({"REQUEST_METHOD": "GET"}, start_response)
        for _ in body:
            pass
        close = getattr(body, "close", None)
        if close is not None:
            close()


def time_each(functions, times, rounds=ROUNDS):
    """Microseconds for each function's unit, the median of rounds taken in turn."""
    results = {name: [] for name in functions}
    gc.collect()
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function(times)
            results[name].append((time.perf_counter() - start) / times * 1e6)
    return {name: statistics.median(taken) for name, taken in results.items()}


def compare(title, apps, times=4000):
    taken = time_each(
        {name: lambda n, app=app: serve(app, n) for name, app in apps.items()}, times
    )
    print(f"\n{title}")
    for name, microseconds in taken.items():
        print(f"  {name:42}{microseconds:8.2f} us")
    return taken


def nothing_deferred():
    bodies = {"a list": list_app}
    bodies |= {f"a generator of {n}": generator_app(n) for n in (1, 10, 100)}
    for title, app in bodies.items():
        taken = compare(
            f"A request, nothing deferred, {title}:",
            {
                "the app alone": app,
                "in Werkzeug's ClosingIterator": closing(app),
                "in DeferMiddleware": DeferMiddleware(app),
            },
            times=400 if "100" in title else 4000,
        )
        ratio = taken["in DeferMiddleware"] / taken["in Werkzeug's ClosingIterator"]
        print(f"  {'ratio of the last two':42}{ratio:8.2f}")


def one_deferred():
    def submit(times):
        with ThreadPoolExecutor(1) as executor:
            executor.submit(no_op).result()  # the thread is there
            for _ in range(times):
                executor.submit(no_op)

    def submit_and_wait(times):
        with ThreadPoolExecutor(1) as executor:
            for _ in range(times):
                executor.submit(no_op).result()

    def thread(times):
        for _ in range(times // 10):
            worker = threading.Thread(target=no_op)
            worker.start()
            worker.join()

    plain, deferring = DeferMiddleware(list_app), DeferMiddleware(deferring_app)
    taken = time_each(
        {
            "request": lambda n: serve(plain, n),
            "deferring": lambda n: serve(deferring, n),
            "submit": submit,
            "submit_and_wait": submit_and_wait,
            "thread": thread,
        },
        2000,
    )
    cost = taken["deferring"] - taken["request"]
    print("\nOne deferred no-op, from defer() to the end of the drain:")
    print(f"  {'defer()':42}{cost:8.2f} us")
    print(f"  {'ThreadPoolExecutor.submit(), all run':42}{taken['submit']:8.2f} us")
    print(f"  {'  and wait for each result':42}{taken['submit_and_wait']:8.2f} us")
    print(f"  {'a thread for each':42}{taken['thread'] * 10:8.2f} us")
    print(f"  {'ratio of the first two':42}{cost / taken['submit']:8.2f}")


class Worker:
    """What the host of a gunicorn worker needs to see."""

    alive = True
    sockets = ()

    def __init__(self):
        self.tmp = tempfile.TemporaryFile()  # noqa: SIM115
        self.cfg = SimpleNamespace(graceful_timeout=30)


@contextmanager
def all_hooks():
    """As in a worker of a gunicorn with our hooks: a host, and a ledger."""
    ledger = Ledger(pages=1)
    recorder = ledger.recorder(ledger.take_page())
    observe_process(recorder)
    recording.install(recorder)
    host.install(GunicornHost(Worker()))
    try:
        yield
    finally:
        stop_observing(recorder)
        recording.install(None)
        host.install(host.Host())


def hooks_on():
    """In turns, because the hooks are for the whole process."""
    hooked_beside("A request that defers nothing, under gunicorn:", list_app)
    hooked_beside("A request with one deferred no-op, under gunicorn:", deferring_app)


def hooked_beside(title, app):
    taken = {"no hooks": [], "all hooks": []}
    app = DeferMiddleware(app)

    def unit(name):
        start = time.perf_counter()
        serve(app, 2000)
        taken[name].append((time.perf_counter() - start) / 2000 * 1e6)

    for _ in range(ROUNDS):
        unit("no hooks")
        with all_hooks():
            unit("all hooks")
    without, hooked = (statistics.median(taken[name]) for name in taken)
    print(f"\n{title}")
    print(f"  {'without our hooks':42}{without:8.2f} us")
    print(f"  {'with the host and the ledger':42}{hooked:8.2f} us")
    print(f"  {'more, for each request':42}{hooked - without:8.2f} us")


def job():
    """What pools are measured with; a process must find it by its name."""


async def wait_a_while():
    await asyncio.sleep(0.1)


def pools():
    kinds = {
        "threads": ThreadPool(8),
        "processes": ProcessPool(2),
        "io": AsyncPool(100),
    }
    start_method = multiprocessing.get_context("forkserver")
    with (
        deferring(pools=kinds),
        ThreadPoolExecutor(8) as threads,
        ProcessPoolExecutor(2, start_method) as processes,
    ):
        side_by_side("ThreadPool", pool("threads"), threads, 2000)
        side_by_side("ProcessPool", pool("processes"), processes, 200)
        print("\nAt the same time, in one request:")
        for title, run in {
            "three jobs of 250 ms": lambda: gather([partial(time.sleep, 0.25)] * 3),
            "100 coroutines of 100 ms": lambda: gather(
                [pool("io").submit(wait_a_while) for _ in range(100)]
            ),
        }.items():
            run()  # the threads, or the loop, are there
            taken = time_each({title: lambda times, run=run: run()}, 1, rounds=5)
            print(f"  {title:42}{taken[title] / 1000:8.1f} ms")


def side_by_side(title, ours, theirs, times):
    """From submit() to the result, one after the other."""

    def unit(times, submit):
        for _ in range(times):
            submit(job).result()

    submits = {"ours": ours.submit, "theirs": theirs.submit}
    for submit in submits.values():
        unit(20, submit)
    taken = time_each(
        {name: partial(unit, submit=submit) for name, submit in submits.items()}, times
    )
    print(f"\nA job of a {title}, from submit() to its result:")
    print(f"  {title:42}{taken['ours']:8.2f} us")
    print(f"  {title + 'Executor':42}{taken['theirs']:8.2f} us")
    print(f"  {'ratio':42}{taken['ours'] / taken['theirs']:8.2f}")


def memory():
    app = DeferMiddleware(deferring_app)
    serve(app, 1000)
    gc.collect()
    before = resident()
    serve(app, 100_000)
    gc.collect()
    print("\nMemory:")
    print(f"  {'growth over 100,000 requests':42}{resident() - before:8.0f} KB")


def resident():
    """Kilobytes in memory now; the most there ever was, where Linux does not tell."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize() / 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    print(f"Python {platform.python_version()}, {platform.machine()}")
    nothing_deferred()
    one_deferred()
    hooks_on()
    pools()
    memory()
    sys.exit()
