"""Servers that serve TLS only, by URL."""

from __future__ import annotations

import re

import pytest

from wsgi_defer.jobs import JobsUnavailable

from ..engines.kinds import KINDS, Place, Servers
from ..engines.services import Postgres, Rabbit, Redis
from .services import TlsPostgres, TlsRabbit, TlsRedis

SERVED = [kind for kind in KINDS.values() if kind.server]
TLS = {Redis: TlsRedis, Postgres: TlsPostgres, Rabbit: TlsRabbit}

SAID = {
    "authority": "(?i)certificate.verify.failed",
    "name": "does not match host name|Hostname mismatch",
    "system": "(?i)certificate.verify.failed",
    "plain": "no encryption|reset by peer|closed",
}


class TlsServers(Servers):
    """For each kind of server, one behind TLS."""

    def get(self, server):
        return super().get(TLS[server])


@pytest.fixture(scope="module")
def tls():
    servers = TlsServers()
    yield servers
    servers.close()


@pytest.fixture
def place(tls, kind):
    place = Place(kind, tls)
    yield place
    place.close()


@pytest.mark.parametrize("kind", SERVED, ids=str)
def test_jobs_run(place):
    """At once, after a delay, and after a failure."""
    place.work()
    now, later = place.jobs.enqueue("echo", 1), place.jobs.enqueue("echo", 2, delay=1)
    flaky = place.jobs.enqueue("flaky", 1)
    for job_id in (now, later):
        place.until(lambda j=job_id: place.times("echo", j), "echo")
    place.until(lambda: len(place.times("flaky", flaky)) == 2, "flaky")
    if place.kind.can("status"):
        assert place.wait(flaky).result == 2


@pytest.mark.parametrize("kind", SERVED, ids=str)
@pytest.mark.parametrize("why", SAID)
def test_a_server_that_is_not_the_one_is_refused(place, why):
    """Its certificate is from another authority, or of another name; or the client
    trusts those of the system only, or speaks no TLS."""
    place.url = {
        "authority": lambda url: url.replace("/ca.pem", "/stranger.pem"),
        "name": lambda url: url.replace("127.0.0.1", "localhost"),
        "system": lambda url: url.partition("?")[0] + (
            "?sslmode=verify-full&sslrootcert=system" if "postgres" in url else ""),
        "plain": lambda url: url.partition("?")[0].replace("s://", "://", 1) + (
            "?sslmode=disable" if "postgres" in url else ""),
    }[why](place.url)  # fmt: skip
    with pytest.raises(JobsUnavailable) as caught:
        place.client(place.queue).enqueue("echo")
    assert re.search(SAID[why], str(caught.value.__cause__))


@pytest.mark.parametrize("kind", [k for k in SERVED if k.results], ids=str)
def test_a_result_backend_that_is_not_the_one_is_refused(place):
    """As Celery itself has no default for it."""
    place.results = place.results.replace("/ca.pem", "/stranger.pem")
    with pytest.raises(JobsUnavailable):
        place.client(place.queue).enqueue("echo")
