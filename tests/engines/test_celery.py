"""What only Celery on RabbitMQ can get wrong."""

from __future__ import annotations

import time
from contextlib import contextmanager
from ssl import CERT_NONE, CERT_REQUIRED

import pytest

from .kinds import KINDS, PATIENCE, Place, Servers
from .services import Rabbit

if "celery" not in KINDS:
    pytest.skip("Celery is not installed", allow_module_level=True)

# Not in the tests, which several threads run: it replaces its module.
from kombu import Connection

from wsgi_defer.jobs import Jobs
from wsgi_defer.jobs.engines.celery.app import apart

pytestmark = pytest.mark.ahead


def test_a_delayed_job_may_be_the_first_of_all(alone):
    """Before any worker has run, when there is no queue yet."""
    place = alone(KINDS["celery"])
    job_id = place.jobs.enqueue("echo", 1, delay=1)
    place.work(1)
    place.until(lambda: place.times("echo", job_id), "it ran")


@pytest.mark.parametrize("delay", [0, 1])
def test_a_queue_that_is_deleted_is_made_again(alone, delay):
    """By the next job, of a client that has used it before. The job is not lost."""
    place = alone(KINDS["celery"])
    place.jobs.enqueue("echo", 1, delay=60 * delay)
    with Connection(place.url) as connection:
        connection.default_channel.queue_delete(place.queue)
    job_id = place.jobs.enqueue("echo", 2, delay=delay)
    delayed = place.jobs.enqueue("echo", 3, delay=1)
    place.work(1)
    place.until(lambda: place.times("echo", job_id), "it ran")
    place.until(lambda: place.times("echo", delayed), "the delayed one ran")


@contextmanager
def own_servers():
    """A place with its own servers, as an alarm holds for all clients."""
    servers = Servers()
    place = Place(KINDS["celery+results"], servers)
    try:
        yield place
    finally:
        place.close()
        servers.close()


@contextmanager
def failed_in_an_alarm(place):
    """A job that has failed once, while RabbitMQ takes no messages."""
    job_id = place.jobs.enqueue("flaky", 1)
    with place.servers.get(Rabbit).alarm():
        place.work(1)
        place.until(lambda: place.times("flaky", job_id), "it ran")
        yield job_id
    place.until(lambda: len(place.times("flaky", job_id)) > 1, "it ran again")


def test_the_next_attempt_waits_for_a_broker_that_takes_no_messages():
    """The job does not run again meanwhile, nor several times afterwards."""
    with own_servers() as place:
        with failed_in_an_alarm(place) as job_id:
            time.sleep(4)
            assert len(place.times("flaky", job_id)) == 1, str(place)
        job = place.wait(job_id)
        assert (job.state, job.attempts) == ("done", 2)
        time.sleep(0.5)
        assert len(place.times("flaky", job_id)) == 2


def test_a_worker_stops_though_its_broker_takes_no_messages():
    """A job whose next attempt could not be stored stays in this one."""
    with own_servers() as place:
        with failed_in_an_alarm(place) as job_id:
            time.sleep(2)  # it waits by now
            workers = place.workers
            workers.terminate()
            assert workers.supervisor.wait(PATIENCE) == 0, str(place)
            place.until(lambda: not workers.family(), "their end")
            place.work(1)
        job = place.wait(job_id)
        assert (job.state, job.attempts) == ("done", 2)
        assert [words[2] for words in place.notes] == ["1", "1", "2"]


def test_a_result_may_look_like_what_kombu_encodes(alone):
    """It would decode objects with such keys."""
    place = alone(KINDS["celery+results"])
    place.work(1)
    for result in ({"__type__": "uuid", "__value__": {"hex": "zz"}}, [{}], None):
        assert place.wait(place.jobs.enqueue("echo", result)).result == result


def test_a_message_that_comes_back_is_not_run_if_its_job_has_ended(alone):
    """Its worker was killed before it told RabbitMQ. One id twice is two jobs."""
    place = alone(KINDS["celery+results"])
    for number in range(2):
        place.jobs.enqueue("echo", number, job_id="a")
    with Connection(place.url) as connection:
        channel = connection.default_channel
        first, second = (channel.basic_get(place.queue) for _ in range(2))
        connection.Producer().publish(
            first.body, exchange=place.queue, routing_key=place.queue,
            content_type=first.properties["content_type"],
            content_encoding=first.properties["content_encoding"],
            headers=first.headers, message_id=first.properties["message_id"],
        )  # fmt: skip
        copy = place.until(lambda: channel.basic_get(place.queue), "the copy is there")
        for message in (second, copy, first):
            channel.basic_reject(message.delivery_tag, requeue=True)
    last = place.jobs.enqueue("echo")
    place.work(1)
    place.wait(last)
    assert place.wait("a").result in (0, 1)
    assert len(place.times("echo", "a")) == 2, str(place)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("", {"cert_reqs": CERT_REQUIRED, "server_hostname": "mq.example"}),
        (
            "?ssl_ca_certs=/a%20b.pem&heartbeat=5",
            {"cert_reqs": CERT_REQUIRED, "server_hostname": "mq.example",
             "ca_certs": "/a b.pem"},
        ),
        ("?ssl_check_hostname=false", {"cert_reqs": CERT_REQUIRED}),
        ("?ssl_cert_reqs=none", {"cert_reqs": CERT_NONE}),
        (
            "?ssl_server_hostname=other",
            {"cert_reqs": CERT_REQUIRED, "server_hostname": "other"},
        ),
    ],
)  # fmt: skip
def test_tls_is_the_default_of_amqps_and_what_its_url_says(said, meant):
    """The host's name is checked, too, unless the URL says that it is not."""
    url, tls = apart(f"amqps://a:b@mq.example//{said}")
    assert tls == meant
    assert "ssl" not in url
    assert ("heartbeat=5" in url) == ("heartbeat" in said)


def test_without_tls_a_url_stays_as_it_is():
    """Also one that could be written otherwise."""
    assert apart("amqp://a:b@mq.example//?x=%20") == (
        "amqp://a:b@mq.example//?x=%20", None)  # fmt: skip


@pytest.mark.parametrize(
    ("scheme", "said", "told"),
    [
        ("amqps", "ssl_ca_cert=/a", "amqps: ssl_ca_cert$"),
        ("amqps", "ssl_cert_reqs=yes", "required"),
        ("amqps", "ssl=true", "amqps: ssl$"),  # kombu would check no name
        ("amqps", "ssl=1&ssl_ca_certs=/a", "amqps: ssl$"),
        ("amqps", "x=1;amqps://other.example//", "one broker"),
        ("amqp", "ssl_ca_certs=/a", "amqps: ssl_ca_certs$"),
        ("amqp", "ssl=true", "amqps: ssl$"),
    ],
)
def test_what_is_not_known_of_tls_is_refused(scheme, said, told):
    """When ``Jobs`` is made, not by the first job. No password is told."""
    with pytest.raises(ValueError, match=told) as caught:
        Jobs(f"{scheme}://a:secret@mq.example//?{said}")
    assert "secret" not in str(caught.value)
