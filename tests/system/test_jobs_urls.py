"""URLs that engines refuse when ``Jobs()`` is made, without repeating a password."""

from __future__ import annotations

import traceback

import pytest

from wsgi_defer.jobs import Jobs

PACKAGES = {"redis": "rq", "amqp": "celery", "postgresql": "procrastinate"}


def refused(make):
    """The whole traceback of its ``ValueError``, without the lines of this file."""
    with pytest.raises(ValueError) as caught:
        make()
    lines = traceback.format_exception(caught.value)
    return "".join(line for line in lines if __file__ not in line)


@pytest.mark.parametrize(
    "url",
    [
        "redis://u:s3cretpass#x@h",
        "redis://u:s3cret/pass@h",
        "amqp://u:s3cret/pass@h",
        "amqp://u:s3cret#pass@h//",
        "postgresql://u:s3cret/pass@h/db",
    ],
)
def test_a_password_with_odd_characters_is_not_repeated(url):
    """It would be read as a port, and shown in the error."""
    pytest.importorskip(PACKAGES[url.partition(":")[0]])
    text = refused(lambda: Jobs(url))
    assert "s3cret" not in text
    assert "%2F" in text


def test_nor_is_that_of_a_result_backend():
    """Celery would only look at it later."""
    pytest.importorskip("celery")
    jobs = Jobs("amqp://h", results="redis://u:s3cret#x@h")
    assert "s3cret" not in refused(lambda: jobs.engine)


@pytest.mark.parametrize("path", ["notanumber", "0/1", "-1"])
def test_a_database_of_redis_is_a_number(path):
    """Otherwise it would silently be the database 0."""
    pytest.importorskip("rq")
    assert "number of a database" in refused(lambda: Jobs(f"redis://h/{path}"))
    for good in ("redis://h", "redis://h/", "redis://h/7", "rediss://:p%23@h:1/0?db=1"):
        Jobs(good)


@pytest.mark.parametrize(
    "url",
    ["redis://h?ssl_ca_certs=/a", "rediss://h?ssl_ca_cert=/a", "rediss://h?ssl=true"],
)
def test_what_redis_does_not_know_of_tls_is_refused(url):
    """When ``Jobs`` is made, not by the first job."""
    pytest.importorskip("rq")
    assert "are for rediss: ssl" in refused(lambda: Jobs(url))
    Jobs("rediss://h?ssl_ca_certs=/a&ssl_cert_reqs=none")


def test_a_long_name_of_a_queue_is_refused_on_postgresql():
    """PostgreSQL's own error would come later, and from the server."""
    pytest.importorskip("procrastinate")
    assert "at most 40" in refused(
        lambda: Jobs("postgresql://h/d", queue="q" * 41).engine
    )
    engine = Jobs("postgresql://h/d", queue="q" * 40).engine
    engine.close()
