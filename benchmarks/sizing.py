"""How many workers, checked: the formula of docs/sizing.md against a real gunicorn.

Requests come at random moments, so many a second on average, whether or not the earlier
ones have their answers. Views and calls sleep, so that a machine of few cores can tell.
For each number of workers, this prints how long clients waited for a free worker.

    python benchmarks/sizing.py
"""

import argparse
import math
import random
import socket
import statistics
import subprocess
import sys
import threading
import time

APP = """
import time
from wsgi_defer import DeferMiddleware, defer

def view(environ, start_response):
    time.sleep({view})
    defer(time.sleep, {deferred})
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]

app = DeferMiddleware(view)
"""
ROOM = 0.7  # of the workers' time that is planned for


def needed(rate, view, deferred):
    return math.ceil(rate * (view + deferred) / ROOM)


def waits(workers, rate, view, deferred, seconds):
    """How long each client waited beyond the view's own time."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = APP.format(view=view, deferred=deferred)
    server = subprocess.Popen(
        [sys.executable, "-c", f"{code}\nfrom gunicorn.app.wsgiapp import run; run()",
         "--no-control-socket", "-c", "python:wsgi_defer.gunicorn", "--bind",
         f"127.0.0.1:{port}", "--workers", str(workers), "--log-level", "error",
         "__main__:app"],
    )  # fmt: skip
    try:
        found, threads = [], []
        await_start(port)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(random.expovariate(rate))
            threads.append(threading.Thread(target=ask, args=(port, view, found)))
            threads[-1].start()
        for thread in threads:
            thread.join()
        return found
    finally:
        server.terminate()
        server.wait()


def await_start(port):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    sys.exit("gunicorn did not start")


def ask(port, view, found):
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        while client.recv(4096):
            pass
    found.append(time.monotonic() - start - view)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=40, help="requests a second")
    parser.add_argument("--view", type=float, default=0.03, help="seconds")
    parser.add_argument("--deferred", type=float, default=0.02, help="seconds")
    parser.add_argument("--seconds", type=float, default=20, help="for each row")
    options = parser.parse_args()
    load = options.rate, options.view, options.deferred
    best = needed(*load)
    print(
        f"{options.rate:g} requests a second, {options.view * 1000:g} ms in the view, "
        f"{options.deferred * 1000:g} ms deferred: {best} workers by the formula."
    )
    print("workers   waited for a free one: median      p95      p99")
    for workers in range(max(best - 1, 1), best + 3):
        found = waits(workers, *load, options.seconds)
        cuts = statistics.quantiles(found, n=100)
        median, p95, p99 = (max(cuts[at - 1], 0) * 1000 for at in (50, 95, 99))
        print(f"{workers:7}{'':24}{median:7.0f} ms{p95:6.0f} ms{p99:6.0f} ms")


if __name__ == "__main__":
    main()
