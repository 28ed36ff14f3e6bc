"""Database connections of calls: healthy, and none of them left behind."""

from __future__ import annotations

import itertools
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from ..helpers.waiting import OF_PROCESSES, until
from .site import Site

VIEWS = """
import time
from pathlib import Path
from django.http import HttpResponse
from wsgi_defer import defer, pool
from .models import Row

def write(text):
    Row.objects.create(text=text)

def plain(request):
    return HttpResponse(str(Row.objects.count() >= 0))

def page(request):
    defer(write, request.GET["text"])
    return plain(request)

def blind(request):
    defer(write, request.GET["text"])
    return HttpResponse("no query")

def write_later(text):
    while not Path("go").exists():
        time.sleep(0.01)
    write(text)

def waiting(request):
    defer(write_later, request.GET["text"])
    return plain(request)

def pooled(request):
    for future in [pool().submit(write, request.GET["text"]) for _ in range(4)]:
        future.result()
    return HttpResponse("written")

async def write_async(text):
    await Row.objects.acreate(text=text)

def coroutine(request):
    defer(write_async, request.GET["text"])
    return HttpResponse("soon")

def user(request):
    defer(lambda: write(f"{request.GET['text']} {request.user}"))
    return plain(request)
"""
NAMES = ("plain", "page", "blind", "waiting", "pooled", "coroutine", "user")
URLS = [f"path('{name}', views.{name})" for name in NAMES]
MANY = int(os.environ.get("REQUESTS", "150"))  # 1000 show the same
WORKERS = {
    "sync": ["--worker-class", "wsgi_defer.gunicorn.SyncWorker"],
    "thread": ["--worker-class", "wsgi_defer.gunicorn.ThreadWorker", "--threads", "4"],
    "background": ["--worker-class", "gthread", "--threads", "4"],
}


@pytest.fixture
def make_site(tmp_path, database):
    """A site with its tables, and these options of its database."""

    def make(**options):
        settings = database.settings(**options)
        site = Site(tmp_path, settings=settings, views=VIEWS, urls=URLS)
        site.make_tables()
        return site

    return make


def rows(database):
    return database.ask("select count(*) from shop_row")


def send(server, path, number):
    """So many requests, four at a time. None of them fails."""
    with ThreadPoolExecutor(4) as clients:
        paths = [f"/{path}?text={n}" for n in range(number)]
        replies = list(clients.map(server.get, paths))
    assert {status for status, _ in replies} == {200}, server.site.output


@pytest.mark.parametrize("age", [0, None])
@pytest.mark.parametrize("worker", WORKERS)
def test_many_requests(make_site, database, worker, age):
    """They leave as many connections as if they had deferred nothing, but for the one
    of the background thread, if connections are kept. The database restarts half-way;
    views need health checks for that."""
    site = make_site(CONN_MAX_AGE=age, CONN_HEALTH_CHECKS=True)
    with site.gunicorn(*WORKERS[worker]) as server:
        send(server, "plain", 40)
        until(lambda: database.connections() == (0 if age == 0 else 1)
              or worker != "sync")  # fmt: skip
        if age == 0:
            until(lambda: database.connections() == 0)
        send(server, "page", MANY // 2)
        until(lambda: rows(database) == MANY // 2, lambda: site.output, OF_PROCESSES)
        database.restart()
        send(server, "page", MANY - MANY // 2)
        until(lambda: rows(database) == MANY, lambda: site.output, OF_PROCESSES)
        most = {"sync": 1, "thread": 4, "background": 5}[worker] if age is None else 0
        until(lambda: database.connections() <= most)
        assert "ERROR" not in site.output


@pytest.mark.parametrize("worker", WORKERS)
@pytest.mark.parametrize("age", [0, None])
def test_a_restart(make_site, database, worker, age):
    """Of the database server, between two responses, and between a response and its
    call: all calls succeed, without CONN_HEALTH_CHECKS."""
    site = make_site(CONN_MAX_AGE=age)
    with site.gunicorn(*WORKERS[worker]) as server:
        for number in itertools.count(1):
            send(server, "blind", 1)
            until(lambda number=number: rows(database) == number, site.output)
            if number == 8:
                break
        send(server, "waiting", 1)
        database.restart()
        (site.root / "go").touch()
        until(lambda: rows(database) == 9, lambda: site.output, OF_PROCESSES)
        database.restart()
        send(server, "blind", 8)
        until(lambda: rows(database) == 17, lambda: site.output, OF_PROCESSES)
        assert "ERROR" not in site.output


@pytest.mark.parametrize("worker", WORKERS)
def test_a_pool_of_django(make_site, database, worker):
    """Its connections go back to it after each call."""
    pytest.importorskip("psycopg_pool")
    pool = {"min_size": 1, "max_size": 2, "timeout": 10}
    site = make_site(OPTIONS={"pool": pool})
    with site.gunicorn(*WORKERS[worker]) as server:
        send(server, "page", 60)
        until(lambda: rows(database) == 60, lambda: site.output, OF_PROCESSES)
        assert "ERROR" not in site.output


@pytest.mark.parametrize("path", ["pooled", "coroutine"])
def test_other_threads(make_site, database, path):
    """Those of a pool, and that of asynchronous methods of Django in a deferred
    coroutine, leave no connection either, and find theirs healthy."""
    site = make_site()
    written = 4 if path == "pooled" else 1
    with site.gunicorn(*WORKERS["sync"]) as server:
        send(server, path, 20)
        until(lambda: rows(database) == 20 * written, lambda: site.output)
        until(lambda: database.connections() == 0)
        database.restart()
        send(server, path, 20)
        until(lambda: rows(database) == 40 * written, lambda: site.output)
        until(lambda: database.connections() == 0)


@pytest.mark.parametrize("worker", WORKERS)
def test_the_user(make_site, database, worker):
    """``request.user`` can be loaded in a call."""
    site = make_site()
    with site.gunicorn(*WORKERS[worker]) as server:
        send(server, "user", 1)
        until(lambda: rows(database) == 1, lambda: site.output)
    assert database.ask("select text from shop_row") == "0 AnonymousUser"
