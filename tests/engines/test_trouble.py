"""What happens to jobs when their worker or their server is in trouble."""

from __future__ import annotations

import itertools
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from wsgi_defer.jobs import JobsUnavailable, NotSupported
from wsgi_defer.jobs._job import MOST_CRASHES

from ..helpers.waiting import at_best
from . import kills
from .kinds import KINDS, PATIENCE, Own, Place, kinds
from .services import Postgres, Rabbit, Redis, frozen, silent

SERVED = [kind for kind in KINDS.values() if kind.server]
LIMIT = 2.5  # seconds that a server that is down may delay a request


def killed(place):
    """A small run of ``kills``."""
    # A job runs twice if it is killed after its end, before that is stored. With longer
    # jobs, this is less likely, even on a busy machine.
    return kills.run(place, jobs=100, kills=4, seconds=(0.1, 0.2))


def died_once(place):
    """A job that kills the process that runs it, but only the first time."""
    place.work(1)
    job_id = place.jobs.enqueue("deadly", 1)
    place.until(lambda: len(place.times("deadly", job_id)) == 2, "again", 100)
    return place.wait(job_id) if place.kind.can("status") else None


@pytest.fixture(scope="module", autouse=True)
def outcomes(servers, request):
    """Run a function for all engines at the same time, as they mostly wait.

    Those that take longest are started before the tests that do not need them.
    """
    runs = {}
    executor = ThreadPoolExecutor(len(KINDS))

    def one(function, kind):
        place = Place(kind, servers)
        try:
            return function(place)
        finally:
            place.close()

    def start(function):
        if function not in runs:
            runs[function] = {
                kind: executor.submit(one, function, kind) for kind in KINDS.values()
            }
        return runs[function]

    if any(
        item.name.startswith("test_no_job_is_lost") for item in request.session.items
    ):
        start(killed)
        start(died_once)
        start(stopped)
    yield lambda function, kind: start(function)[kind].result()
    executor.shutdown(cancel_futures=True)


@pytest.mark.ahead
@pytest.mark.parametrize("server", [Redis, Postgres, Rabbit])
def test_a_client_outlives_its_server(server):
    """It connects again when the server is back, and stops waiting if it hangs."""
    some = [kind for kind in SERVED if kind.server is server]
    if not some:
        pytest.skip("no engine for it is installed")
    own = Own(server)
    try:
        for kind in (kind for kind in some if not kind.results):
            place = Place(kind, own)
            place.jobs.enqueue("echo")
            own.running.stop()
            with pytest.raises(JobsUnavailable):
                place.jobs.enqueue("echo")
            own.running.start()
            at_best(lambda place=place: hangs_for(place, own.running), LIMIT)
            place.enqueue()
            place.close()
    finally:
        own.running.close()


def hangs_for(place, server):
    """Seconds that a client waits for a server that stops answering."""
    place.enqueue()
    pids = [process.pid for process in server.processes]
    thread = ThreadPoolExecutor(1)
    with frozen(*pids, *children(*pids)):
        start = time.monotonic()
        hung = thread.submit(place.jobs.enqueue, "echo")
        with pytest.raises(JobsUnavailable):
            hung.result(10)
        return time.monotonic() - start


def children(*pids):
    """The ids of all processes below those."""
    found = []
    for pid in pids:
        try:
            with open(f"/proc/{pid}/task/{pid}/children") as file:
                below = [int(word) for word in file.read().split()]
        except OSError:  # it has ended
            continue
        found += [*below, *children(*below)]
    return found


@pytest.mark.parametrize("name", ["celery"])
def test_what_an_engine_cannot_do_is_said(alone, name):
    """The error says what to do instead."""
    if name not in KINDS:
        pytest.skip(f"{name} is not installed")
    jobs = alone(KINDS[name]).jobs
    for ask in (
        lambda: jobs.status("a"),
        jobs.failed,
        jobs.recent,
        lambda: jobs.retry("a"),
        lambda: jobs.clear(0),
    ):
        with pytest.raises(NotSupported, match=r"Celery on RabbitMQ cannot .*\. "):
            ask()


def test_rq_clears_by_itself(alone):
    """It says so."""
    if "rq" not in KINDS:
        pytest.skip("RQ is not installed")
    with pytest.raises(NotSupported, match="a day after its end"):
        alone(KINDS["rq"]).jobs.clear(0)


def test_rq_imports_nothing_that_redis_names(alone, tmp_path):
    """Write access to Redis is not enough to choose what the worker runs."""
    rq = pytest.importorskip("rq")
    from redis import Redis as Client

    place = alone(KINDS["rq"])
    place.work(1)
    connection = Client.from_url(place.url)
    target = tmp_path / "made"
    queue = rq.Queue(place.queue, connection=connection, serializer="json")
    options = {"retry": rq.Retry(2), "result_ttl": 100}
    foreign = [
        queue.enqueue_call("os.mkdir", (str(target),), **options),
        queue.enqueue_call("wsgi_defer.job", ("echo", "1", 3), **options),
        queue.enqueue_call(
            "wsgi_defer.job", ("fails", "1", "x"), **options,
            on_failure=rq.Callback("os.mkdir"), on_success=rq.Callback("os.mkdir"),
        ),
    ]  # fmt: skip
    pickled = rq.Queue(place.queue, connection=connection)
    foreign.append(pickled.enqueue_call(os.mkdir, (str(target),), **options))
    place.until(
        lambda: all(job.get_status() == "failed" for job in foreign), "all refused"
    )
    assert not target.exists()
    assert [job.id for job in place.jobs.failed()] == ["x"]
    place.wait(place.jobs.enqueue("echo"))
    connection.close()


def test_celery_takes_json_only(alone, tmp_path):
    """It runs no pickled message, and no other task. The worker keeps running."""
    pytest.importorskip("celery")
    from kombu import Connection

    place = alone(KINDS["celery"])
    place.work(1)
    first = place.jobs.enqueue("echo")
    place.until(lambda: place.times("echo", first), "the queue is there")
    target = tmp_path / "made"

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(target),)

    with Connection(place.url) as connection:
        producer = connection.Producer()
        for body, serializer, task in (
            ((Trap(), {}, {}), "pickle", "wsgi_defer.job"),
            ((["a"], {}, {}), "json", "os.mkdir"),
            ((["a"], {}, {}), "json", "wsgi_defer.job"),
            ((["echo", "{", 1], {"x": 2}, {}), "json", "wsgi_defer.job"),
        ):
            producer.publish(
                body, exchange=place.queue, routing_key=place.queue,
                serializer=serializer,
                headers={"task": task, "id": "strange", "lang": "py"},
            )  # fmt: skip
    second = place.jobs.enqueue("echo")
    place.until(lambda: place.times("echo", second), "the worker keeps running")
    assert not target.exists()


def test_procrastinate_gives_up_a_job_that_killed_too_many(alone):
    """Without the 30 seconds that each of its deaths would take."""
    psycopg = pytest.importorskip("psycopg")
    place = alone(KINDS["procrastinate"])
    job_id = place.jobs.enqueue("echo", 1)
    with psycopg.connect(place.url) as connection:
        note = json.dumps({"crashes": MOST_CRASHES})
        connection.execute(
            "UPDATE procrastinate_jobs SET status = 'doing', args = args || %s::jsonb",
            [note],
        )
    place.work(1)
    job = place.wait(job_id, "failed")
    assert f"{MOST_CRASHES + 1} times" in job.error
    assert job.attempts == 1
    assert place.jobs.failed() == [job]
    place.jobs.retry(job_id)
    assert place.wait(job_id).result == 1


@pytest.mark.ahead
@pytest.mark.parametrize("name", ["rq", "celery+results"])
def test_a_job_that_kills_every_worker_fails_in_the_end(alone, name):
    """It kills its worker as often as is allowed, and not more often."""
    if name not in KINDS:
        pytest.skip(f"{name} is not installed")
    place = alone(KINDS[name])
    place.work(1)
    job_id = place.jobs.enqueue("deadly", 1000)
    job = place.wait(job_id, "failed", patience=180)
    assert f"died, or was killed, {MOST_CRASHES + 1} times" in job.error
    assert len(place.times("deadly", job_id)) == MOST_CRASHES + 1
    place.wait(place.jobs.enqueue("echo"))


@kinds()
def test_no_job_is_lost_when_all_workers_are_killed(outcomes, kind):
    """And few run twice. ``python -m tests.engines.kills`` does more of it."""
    count = outcomes(killed, kind)
    assert count.lost == 0, count
    assert count.twice <= kills.most_twice(count.kills), count


def stopped(place):
    """SIGTERM with two jobs that run: to the supervisor, and to all processes."""
    seen = {}

    def stop(everyone):
        workers = place.work(2)
        gate = place.root / f"gate-{time.monotonic_ns()}"
        ids = [place.jobs.enqueue("held", str(gate)) for _ in range(2)]
        place.until(lambda i=ids: all(place.times("start", j) for j in i), "both start")
        later = place.jobs.enqueue("echo")
        workers.terminate(everyone)
        time.sleep(10)  # they keep running when all know that they are to stop
        gate.touch()
        start = time.monotonic()
        code = workers.supervisor.wait(PATIENCE)
        took = time.monotonic() - start
        ends = [len(place.times("end", job_id)) for job_id in ids]
        seen[everyone] = ends, code, len(place.times("echo", later))
        place.until(lambda: not workers.family(), "their end")
        assert ends == [1, 1], f"{everyone}\n{place.notes}\n{place}"
        return took

    for everyone in (False, True):
        at_best(partial(stop, everyone), 7)
    return seen


@kinds()
def test_a_stop_lets_running_jobs_finish(outcomes, kind):
    """Both of them, and no new job is started. The exit status is 0."""
    seen = outcomes(stopped, kind)
    assert seen[False] == ([1, 1], 0, 0)
    # The job that had to wait ran when the workers were started again.
    assert seen[True] == ([1, 1], 0, 0)


@kinds()
def test_a_job_whose_worker_dies_is_started_again(outcomes, kind):
    """Even if it has one attempt: a killed worker is not the handler's failure."""
    job = outcomes(died_once, kind)
    assert job is None or (job.state, job.attempts) == ("done", 1)


def client_of(kind, port, alone):
    """A client of a place whose server is at another port."""
    place = alone(kind)
    before = f":{place.servers.get(kind.server).port}/"
    place.url = place.url.replace(before, f":{port}/")
    assert str(port) in place.url
    return place.client(place.queue)


@pytest.mark.parametrize("kind", SERVED, ids=str)
@pytest.mark.parametrize("how", ["refused", "silent"])
def test_a_server_that_is_down_is_an_error_in_time(alone, kind, how):
    """Whether it refuses or never answers, for all that a client can ask."""
    with silent() as port:
        jobs = client_of(kind, port if how == "silent" else 1, alone)
        asks = [
            lambda: jobs.enqueue("echo"),
            lambda: jobs.enqueue("echo", delay=60),
            lambda: jobs.status("a"),
            jobs.failed,
            jobs.recent,
            lambda: jobs.retry("a"),
        ]
        if kind.results:  # that one is up
            del asks[2:]
        if kind.can("clear"):
            asks.append(lambda: jobs.clear(0))

        def answer(ask):
            errors = []

            def takes():
                start = time.monotonic()
                with pytest.raises((JobsUnavailable, NotSupported)) as caught:
                    ask()
                errors.append(caught.value)
                return time.monotonic() - start

            at_best(takes, LIMIT)
            return errors

        # DBOS opens its database under a lock: threads wait for one another.
        threads = len(asks) if kind.package != "dbos" else 1
        with ThreadPoolExecutor(threads) as executor:
            answers = list(executor.map(answer, asks))
        jobs.engine.close()
    for error in itertools.chain(*answers):
        if kind.can("recent"):
            assert isinstance(error, JobsUnavailable)
            assert error.__cause__ is not None
