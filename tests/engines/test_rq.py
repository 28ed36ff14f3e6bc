"""What only RQ on Redis can get wrong."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from wsgi_defer.jobs import JobNotFailedError, JobNotWaitingError, JobsUnavailable

from .kinds import KINDS, Own, Place
from .services import Redis

if "rq" not in KINDS:
    pytest.skip("rq is not installed", allow_module_level=True)


@pytest.fixture
def place(shared):
    """A place with workers."""
    return shared(KINDS["rq"])


def test_a_retry_that_is_cut_short_changes_nothing(place, monkeypatch):
    """The job stays on the list of failed jobs, and can be retried."""
    from rq.queue import Queue

    job_id = place.jobs.enqueue("fails", 1)
    place.wait(job_id, "failed")
    failed = place.jobs.failed()

    original, here = Queue._enqueue_job, threading.get_ident()

    def die(*args, **kwargs):
        if threading.get_ident() != here:  # another test, at the same time
            return original(*args, **kwargs)
        raise ConnectionError("cut")

    with monkeypatch.context() as patch:
        patch.setattr(Queue, "_enqueue_job", die)
        with pytest.raises(ConnectionError):
            place.jobs.retry(job_id)
    assert place.jobs.failed() == failed
    place.jobs.retry(job_id)
    place.until(lambda: len(place.times("fails", job_id)) == 2, "again")


def test_of_many_retries_one_succeeds(place):
    """The others raise an error, as it is not failed any more. It runs once more."""
    job_id = place.jobs.enqueue("fails", 1)
    place.wait(job_id, "failed")
    together = threading.Barrier(8)

    def retry(_):
        together.wait()
        try:
            return place.jobs.retry(job_id)
        except JobNotFailedError:
            return None

    with ThreadPoolExecutor(8) as executor:
        answers = list(executor.map(retry, range(8)))
    assert answers.count(job_id) >= 1
    times = 1 + answers.count(job_id)
    place.until(lambda: len(place.times("fails", job_id)) >= times, "again")
    place.wait(job_id, "failed")
    assert len(place.times("fails", job_id)) == times


def test_a_retry_survives_a_server_that_stalls(monkeypatch):
    """Whether its answer came in time or not, the job runs again."""
    own = Own(Redis)
    place = Place(KINDS["rq"], own)
    try:
        place.work(1)
        job_id = place.jobs.enqueue("fails", 1)
        place.wait(job_id, "failed")
        [process] = own.running.processes
        send = "redis.connection.Connection.send_packed_command"
        from redis.connection import Connection

        original, here = Connection.send_packed_command, threading.get_ident()

        def stall(self, command, *args, **kwargs):
            sent = b"".join(command) if isinstance(command, list) else command
            if b"ZREM" in sent and not stalled and threading.get_ident() == here:
                os.kill(process.pid, signal.SIGSTOP)
                go_on = os.kill, (process.pid, signal.SIGCONT)
                stalled.append(threading.Timer(1.2, *go_on))
                stalled[0].start()
            return original(self, command, *args, **kwargs)

        stalled = []
        with monkeypatch.context() as patch:
            patch.setattr(send, stall)
            try:
                place.jobs.retry(job_id)
            except (JobNotFailedError, JobsUnavailable):
                pass
        assert stalled
        stalled[0].join()
        # More often, if it had failed again before we looked.
        place.until(lambda: len(place.times("fails", job_id)) >= 2, "again")
        place.wait(job_id, "failed")
        assert [job.id for job in place.jobs.failed()] == [job_id]
    finally:
        place.close()
        own.running.close()


def test_an_error_that_is_no_text_for_redis_is_one_failure(place):
    """It does not count as the death of its worker, and is not tried again."""
    job_id = place.jobs.enqueue("strange")
    job = place.wait(job_id)
    assert job.error.startswith("ValueError: ")
    assert len(place.times("strange", job_id)) == 1


def test_redis_keeps_no_traceback(place):
    """A traceback would show what the handler did."""
    job_id = place.jobs.enqueue("fails", "a secret")
    place.wait(job_id, "failed")
    engine = place.jobs.engine
    [job] = engine._fetch([engine._key(job_id)])
    kept = job.latest_result().exc_string
    assert "AttemptFailed" in kept
    assert "app.py" not in kept


def test_an_output_that_cannot_be_written_is_no_death(place):
    """What is printed is lost, and the job is done."""
    job_id = place.jobs.enqueue("prints", 1)
    job = place.wait(job_id)
    assert (job.state, job.result) == ("done", 1), place
    assert len(place.times("prints", job_id)) == 1


def test_a_job_that_is_cancelled_while_it_is_moved_to_the_queue(place):
    """RQ's scheduler reads which jobs are due, and moves them later, whatever has
    happened since. A worker gets it then, and does not run it."""
    job_id = place.jobs.enqueue("echo", 1, delay=300)
    engine = place.jobs.engine
    [moved] = engine._fetch([engine._key(job_id)])
    place.jobs.cancel(job_id)
    engine._queue._enqueue_job(moved)
    place.until(lambda: engine._queue.count == 0, "a worker has it")
    place.wait(place.jobs.enqueue("echo", 2))
    place.wait(place.jobs.enqueue("echo", 2))
    assert place.times("echo", job_id) == []
    job = place.jobs.status(job_id)
    assert (job.state, job.attempts, job.result) == ("cancelled", 0, None)


def test_a_job_that_a_worker_has_fetched_is_not_cancelled(alone):
    """It is on no list for a moment, and RQ still calls it queued."""
    place = alone(KINDS["rq"])
    job_id = place.jobs.enqueue("echo", 1)
    engine = place.jobs.engine
    engine._redis.lpop(engine._queue.key)
    with pytest.raises(JobNotWaitingError, match="is running; only one that waits"):
        place.jobs.cancel(job_id)
    assert place.jobs.status(job_id).state == "queued"


def test_cancelled_jobs_are_forgotten_after_a_day(alone, monkeypatch):
    """Like those that are done: they are in the server's memory."""
    place = alone(KINDS["rq"])
    job_id = place.jobs.enqueue("echo", 1)
    with monkeypatch.context() as patched:  # others enqueue meanwhile
        patched.setattr("wsgi_defer.jobs.engines.rq.client.DONE_KEPT", 1)
        place.jobs.cancel(job_id)
    place.until(lambda: place.jobs.status(job_id) is None, "it is forgotten")
    place.until(lambda: place.jobs.counts()["cancelled"] == 0, "it does not count")
    assert place.jobs.recent(state="cancelled") == []
    place.jobs.enqueue("echo", 1, job_id=job_id)
    assert place.jobs.counts()["queued"] == 1
