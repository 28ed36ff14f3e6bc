"""What only Celery on RabbitMQ can get wrong."""

from __future__ import annotations

import pytest

from .kinds import KINDS

if "celery" not in KINDS:
    pytest.skip("Celery is not installed", allow_module_level=True)

pytestmark = pytest.mark.ahead


def test_a_delayed_job_may_be_the_first_of_all(alone):
    """Before any worker has run, when there is no queue yet."""
    place = alone(KINDS["celery"])
    job_id = place.jobs.enqueue("echo", 1, delay=1)
    place.work(1)
    place.until(lambda: place.times("echo", job_id), "it ran")


@pytest.mark.parametrize("delay", [0, 1])
def test_a_queue_that_is_deleted_is_made_again(alone, delay):
    """By the next job, of a client that has known it: it is not lost."""
    from kombu import Connection

    place = alone(KINDS["celery"])
    place.jobs.enqueue("echo", 1, delay=60 * delay)
    with Connection(place.url) as connection:
        connection.default_channel.queue_delete(place.queue)
    job_id = place.jobs.enqueue("echo", 2, delay=delay)
    delayed = place.jobs.enqueue("echo", 3, delay=1)
    place.work(1)
    place.until(lambda: place.times("echo", job_id), "it ran")
    place.until(lambda: place.times("echo", delayed), "the delayed one ran")
