"""The same jobs on every engine: what a client can count on, whatever the URL."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from datetime import datetime, timezone
from itertools import pairwise
from uuid import uuid4

import pytest

from wsgi_defer.jobs import JobNotFailedError, Jobs, UnknownJobError

from ..helpers.waiting import at_best
from .app import Carries, with_handlers
from .kinds import KINDS, PATIENCE, Workers, kinds

ODD = {
    "text": "\x00 'ä' \ud83d \U0001f600 %s {} </script>",
    "numbers": [0.1, 1e300, -0.0, 2**70, True, None],
    "deep": {"a": [{"b": {}}, []]},
    "": "",
}


# The app of a later release, with another handler.
NEWER = """
from tests.engines.app import jobs, note

@jobs.handler("later", attempts=2, backoff=0, pass_job=True)
def later(payload, job):
    note("later", job.id)
    if job.attempts == 1:
        raise ValueError("attempt 1")
    return job.attempts
"""


@kinds("status")
def test_a_job_is_done_and_its_status_says_so(shared, kind):
    """Its state, result, one attempt, and times in order, in UTC."""
    place = shared(kind)
    before = datetime.now(timezone.utc)
    job_id = place.jobs.enqueue("echo", {"to": "ada"})
    job = place.wait(job_id)
    assert (job.id, job.name, job.state) == (job_id, "echo", "done"), place
    assert (job.attempts, job.error, job.result) == (1, None, {"to": "ada"})
    slack = 1.5  # seconds; some engines cut off fractions
    times = [before, job.enqueued_at, job.started_at, job.finished_at,
             datetime.now(timezone.utc)]  # fmt: skip
    steps = [b - a for a, b in pairwise(times)]
    assert all(step.total_seconds() > -slack for step in steps), times


@kinds("status")
@pytest.mark.parametrize("payload", [ODD, [], "", 0, None], ids=repr)
def test_payloads_come_as_they_went(shared, kind, payload):
    """Also a NUL, half a surrogate pair, large numbers, and nothing."""
    place = shared(kind)
    assert place.wait(place.jobs.enqueue("echo", payload)).result == payload


@kinds()
def test_each_job_runs_once(shared, kind):
    """Twenty jobs on two workers."""
    place = shared(kind)
    ids = [place.jobs.enqueue("echo", number) for number in range(20)]

    def all_ran():
        return all(place.times("echo", job_id) for job_id in ids)

    place.until(all_ran, "all ran")
    time.sleep(0.5)  # a second run would come at once
    assert [len(place.times("echo", job_id)) for job_id in ids] == [1] * 20


@kinds("status")
def test_a_stranger_has_no_status(shared, kind):
    """None, and not "queued"."""
    place = shared(kind)
    assert place.jobs.status("nobody") is None
    assert place.jobs.status(uuid4().hex) is None
    if kind.can("retry"):
        with pytest.raises(UnknownJobError):
            place.jobs.retry("nobody")


@kinds("once")
@pytest.mark.parametrize("delay", [0, 0.4])
def test_the_same_id_runs_once(shared, kind, delay):
    """While it waits, and after it is done; ids may have dots and dashes."""
    place = shared(kind)
    job_id = f"order-17.mail_{uuid4().hex[:8]}"
    for _ in range(3):
        assert place.jobs.enqueue("echo", 1, job_id=job_id, delay=delay) == job_id
    assert place.wait(job_id).result == 1
    place.jobs.enqueue("echo", 2, job_id=job_id)
    place.wait(place.jobs.enqueue("echo", 3))
    assert place.jobs.status(job_id).result == 1
    assert len(place.times("echo", job_id)) == 1


@kinds("once")
def test_ids_do_not_run_into_each_other(shared, kind):
    """A dot is no underscore, and an id may start with another."""
    place = shared(kind)
    end = uuid4().hex[:8]
    ids = [f"a.{end}", f"a_{end}", f"a-{end}", f"a__{end}", f"a_d{end}", f"a.{end}-1",
           f"A.{end}"]  # fmt: skip
    for job_id in ids:
        place.jobs.enqueue("echo", job_id, job_id=job_id)
    assert [place.wait(job_id).result for job_id in ids] == ids


@kinds()
def test_a_delay_is_kept(shared, kind):
    """Not before it is over, and not long after."""
    place = shared(kind)

    def passes():
        start = time.time()
        job_id = place.jobs.enqueue("echo", delay=1.5)
        [at] = place.until(lambda: place.times("echo", job_id), "it ran")
        assert at - start >= 1.5
        return at - start

    at_best(passes, 4.5)


@kinds("status")
def test_a_job_with_a_delay_is_scheduled(shared, kind):
    """It says so, and when it is due."""
    place = shared(kind)
    start = time.time()
    job_id = place.jobs.enqueue("echo", delay=100)
    end = time.time()
    job = place.jobs.status(job_id)
    assert job.state == "scheduled"
    assert job.attempts == 0
    assert start - 0.1 <= job.due_at.timestamp() - 100 <= end + 1.1


@kinds("failed")
def test_a_job_fails_and_is_retried_by_hand(shared, kind, tmp_path):
    """It is listed with its error until it is tried again; then it is done."""
    place = shared(kind)
    path = tmp_path / "there"
    job_id = place.jobs.enqueue("until", str(path))
    job = place.wait(job_id)
    assert (job.state, job.attempts) == ("failed", 1), place
    assert job.error == f"FileNotFoundError: {path}"
    assert job.finished_at >= job.started_at
    assert place.jobs.failed()[0] == job
    path.touch()
    assert place.jobs.retry(job_id) == job_id
    job = place.wait(job_id)
    assert (job.state, job.attempts, job.error) == ("done", 1, None), place
    assert job_id not in [job.id for job in place.jobs.failed()]
    assert len(place.times("until", job_id)) == 2
    with pytest.raises(JobNotFailedError, match="done"):
        place.jobs.retry(job_id)


@kinds("failed")
def test_a_job_may_fail_again_and_again(shared, kind, tmp_path):
    """Each retry by hand starts with the first attempt, and leaves one failure."""
    place = shared(kind)
    job_id = place.jobs.enqueue("until", str(tmp_path / "never"))
    for times in (1, 2, 3):
        job = place.wait(job_id, "failed")
        place.until(lambda n=times: len(place.times("until", job_id)) == n, "it ran")
        job = place.wait(job_id, "failed")
        assert job.attempts == 1
        assert [job.id for job in place.jobs.failed()].count(job_id) == 1
        if times < 3:
            place.jobs.retry(job_id)


@kinds("failed")
def test_the_latest_failure_comes_first(shared, kind):
    """And there are no more than were asked for."""
    place = shared(kind)
    ids = []
    for number in range(3):
        ids.append(place.jobs.enqueue("fails", number))
        assert place.wait(ids[-1]).error == f"ValueError: no {number}"
        time.sleep(1.01 if kind.name == "rq" else 0)  # it orders by whole seconds
    assert [job.id for job in place.jobs.failed(2)] == [ids[2], ids[1]]
    assert place.jobs.failed(0) == []


@kinds("recent")
def test_recent_jobs_are_listed_whatever_they_are(shared, kind, tmp_path):
    """Jobs that wait, run, are done and have failed; the latest first."""
    place = shared(kind)
    done = place.jobs.enqueue("echo", 1)
    place.wait(done)
    failed = place.jobs.enqueue("fails", 1)
    place.wait(failed)
    later = place.jobs.enqueue("echo", 1, delay=300)
    gate = tmp_path / "gate"
    naps = [place.jobs.enqueue("held", str(gate)) for _ in range(4)]
    place.wait(naps[0], "running")
    place.wait(naps[1], "running")
    jobs = place.jobs.recent(7)
    assert [job.id for job in jobs] == [*naps[::-1], later, failed, done]
    assert [job.state for job in jobs][-3:] == ["scheduled", "failed", "done"]
    assert {job.state for job in jobs[:4]} == {"running", "queued"}
    assert len(place.jobs.recent(3)) == 3
    assert place.jobs.recent(0) == []
    gate.touch()
    for nap in naps:
        place.wait(nap)


@pytest.mark.ahead
@kinds("clear")
def test_done_jobs_are_cleared(alone, kind):
    """With all their attempts. Failed and waiting jobs stay. The ids are free again."""
    place = alone(kind)
    place.work()
    path = place.root / "there"
    again = place.jobs.enqueue("until", str(path))
    place.wait(again, "failed")
    path.touch()
    place.jobs.retry(again)
    done = [place.jobs.enqueue("echo", number) for number in range(60)]
    done += [again, place.jobs.enqueue("flaky", 2)]
    for job_id in done:
        assert place.wait(job_id).state == "done", place
    failed = place.jobs.enqueue("fails", 1)
    place.wait(failed)
    later = place.jobs.enqueue("echo", 1, delay=300)
    between = place.jobs.enqueue("rests")
    place.wait(between, "scheduled")
    assert place.jobs.clear(older_than=3600) == 0
    assert place.jobs.clear(older_than=0) == len(done)
    assert [place.jobs.status(job_id) for job_id in done] == [None] * len(done)
    assert {job.id for job in place.jobs.recent()} == {between, later, failed}
    place.jobs.enqueue("echo", "new", job_id=done[0])
    assert place.wait(done[0]).result == "new"


@pytest.mark.ahead
@kinds("status")
def test_a_handler_that_the_worker_lacks_may_come_later(alone, kind):
    """The job is put back, as an old worker must not fail the jobs of a new release.
    Once a worker has the handler, the job has all its attempts."""
    place = alone(kind)
    early = place.client(place.queue)
    early.handler("later", attempts=2, backoff=0)(print)
    job_id = early.enqueue("later", 1)
    early.engine.close()
    place.work(processes=1)
    # Each look may find it in between, as a worker has it again after 1 s, and 2 s.
    job = place.until(
        lambda: (job := place.jobs.status(job_id)).error and job, "it is put back"
    )
    assert job.state in ("scheduled", "queued", "running")
    assert job.attempts == (job.state == "running")
    assert job.error.startswith("UnknownHandlerError: there is no handler 'later'")
    place.wait(place.jobs.enqueue("echo"))  # the worker keeps running
    place.workers.terminate()
    assert place.workers.supervisor.wait(PATIENCE) == 0
    (place.root / "newer.py").write_text(NEWER)
    newer = Workers(place, 1, "newer:jobs")
    try:
        job = place.wait(job_id)
        assert (job.state, job.attempts, job.result) == ("done", 2, 2), place
    finally:
        newer.kill()
    assert len(place.times("later", job_id)) == 2
    output = (place.root / "output").read_text()
    assert output.count("The jobs of that name are put back") == 1


@kinds("status")
def test_a_result_that_is_not_json_is_left_out(shared, kind):
    """But the job is done."""
    place = shared(kind)
    job = place.wait(place.jobs.enqueue("odd"))
    assert (job.state, job.result) == ("done", None)


@kinds("status")
def test_queues_do_not_mix(shared, kind):
    """Two apps on one server, each with its queue, may use the same ids."""
    place = shared(kind)
    if kind.server is None:
        pytest.skip("a file is one app's")
    other = place.client(f"{place.queue}x")
    job_id = f"same-{uuid4().hex[:6]}"
    place.wait(place.jobs.enqueue("echo", 1, job_id=job_id))
    assert other.status(job_id) is None
    other.enqueue("echo", 2, job_id=job_id)
    assert other.status(job_id).state == "queued"
    if kind.can("recent"):
        assert [job.id for job in other.recent()] == [job_id]
    place.wait(place.jobs.enqueue("echo"))
    assert other.status(job_id).state == "queued"
    assert len(place.times("echo", job_id)) == 1
    other.engine.close()


@kinds("status")
def test_a_job_between_two_attempts_is_scheduled(shared, kind):
    """With the error of the last one, and the time of the next."""
    place = shared(kind)
    job = place.wait(place.jobs.enqueue("rests"), "scheduled")
    assert (job.attempts, job.error) == (1, "ValueError: attempt 1")
    assert 0 < job.due_at.timestamp() - time.time() < 301.5
    job = place.wait(place.jobs.enqueue("flaky", 1))
    assert (job.state, job.attempts, job.error, job.result) == ("done", 2, None, 2)


@kinds("status")
def test_attempts_are_counted_as_they_start(shared, kind):
    """There are never too many, and never fewer than a moment before."""
    place = shared(kind)
    if kind.package == "dbos":
        pytest.skip("see test_dbos.py")
    seen = {place.jobs.enqueue("hasty", 1): [] for _ in range(5)}

    def all_ended():
        jobs = [place.jobs.status(job_id) for job_id in seen]
        for job in jobs:
            seen[job.id].append((job.attempts, job.state))
        return {job.state for job in jobs} == {"failed"}

    place.until(all_ended, "all ended")
    for steps in seen.values():
        counts = [attempts for attempts, _ in steps]
        assert counts == sorted(counts), steps
        assert counts[-1] == 4, steps


@kinds()
def test_attempts_wait_as_configured(shared, kind):
    """1, 2, 2 and 2 seconds between five attempts; the last succeeds."""
    place = shared(kind)
    ids = [place.early]

    def too_long():
        job_id = ids.pop() if ids else place.jobs.enqueue("flaky", 4)
        place.until(lambda: len(place.times("flaky", job_id)) == 5, "5 times")
        waits = [b - a for a, b in pairwise(place.times("flaky", job_id))]
        more = [waited - w for waited, w in zip(waits, [1, 2, 2, 2], strict=True)]
        assert min(more) >= 0, waits
        if kind.can("status"):
            job = place.wait(job_id)
            assert (job.state, job.attempts, job.result) == ("done", 5, 5)
        return max(more)

    at_best(too_long, 3)


@kinds()
def test_failing_jobs_do_not_hold_up_healthy_ones(shared, kind, tmp_path):
    """Six that wait for their next attempt take no worker: both are free."""
    place = shared(kind)
    waiting = [place.jobs.enqueue("rests") for _ in range(6)]
    place.until(lambda: all(place.times("rests", i) for i in waiting), "all started")
    gate = tmp_path / "gate"
    held = [place.jobs.enqueue("held", str(gate)) for _ in range(2)]
    place.until(lambda: all(place.times("start", i) for i in held), "both started")
    assert [len(place.times("rests", i)) for i in waiting] == [1] * 6
    gate.touch()
    place.until(lambda: all(place.times("end", i) for i in held), "both ended")


@kinds("status")
def test_calls_of_a_handler(shared, kind):
    """They run when an attempt has succeeded, before the job counts as done; those for
    failures, when it has failed."""
    place = shared(kind)
    job_id = place.jobs.enqueue("defers", 7)
    job = place.wait(job_id)
    assert (job.state, job.result, job.attempts) == ("done", 7, 2), place
    assert len(place.times("call", job_id)) == len(place.times("slow", job_id)) == 1
    assert len(place.times("on_failure", job_id)) == 1
    order = [place.times(word, job_id)[0] for word in ("handler", "call", "slow")]
    assert order == sorted(order)
    if str(kind) in ("rq", "celery+results"):  # these run handlers on the main thread
        assert place.times("uncut", job_id) == []  # within 0.2 of its second


@kinds("threads")
def test_a_process_runs_several_jobs_at_a_time(alone, kind, tmp_path):
    """As many as it has threads, and no more; and then the next ones."""
    place = alone(kind)
    gates = [tmp_path / str(number) for number in range(6)]
    ids = [place.jobs.enqueue("held", str(gate)) for gate in gates]
    place.work(processes=1, threads=4)

    def started():
        return [i for i in ids if place.times("start", i)]

    place.until(lambda: len(started()) == 4, "four start")
    time.sleep(1)
    first = started()
    assert len(first) == 4
    gates[ids.index(first[-1])].touch()
    place.until(lambda: len(started()) == 5, "a fifth starts")
    for gate in gates:
        gate.touch()
    for job_id in ids:
        assert place.wait(job_id).state == "done"
    assert len({words[2] for words in place.notes}) == 1  # processes
    place.workers.terminate()
    assert place.workers.supervisor.wait(PATIENCE) == 0


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS.values() if not kind.can("threads")], ids=str
)
def test_threads_that_there_cannot_be_are_refused(alone, kind):
    """In one sentence that says what to do."""
    place = alone(kind)
    workers = place.work(processes=1, threads=2)
    assert workers.supervisor.wait(PATIENCE) == 1
    output = (place.root / "output").read_text()
    assert "cannot run several jobs at a time in one process" in output
    assert "--processes" in output
    assert "Traceback" not in output


@kinds("once")
def test_many_jobs_are_enqueued_together(shared, kind):
    """They run like those that were enqueued alone, also after a delay."""
    place = shared(kind)
    ids = place.jobs.enqueue_many([("echo", number) for number in range(20)])
    far = place.jobs.enqueue_many([("echo", 1), ("echo", 2)], delay=300)
    assert {place.jobs.status(job_id).state for job_id in far} == {"scheduled"}
    for job_id in far:
        place.jobs.cancel(job_id)
    later = place.jobs.enqueue_many([("echo", "a"), ("echo", "b")], delay=1)
    assert [place.wait(job_id).result for job_id in ids] == list(range(20))
    assert [place.wait(job_id).result for job_id in later] == ["a", "b"]
    for job_id in (*ids, *later):
        assert len(place.times("echo", job_id)) == 1


@kinds("once")
def test_all_or_none_of_many_jobs_are_stored(alone, kind):
    """Here, the last one cannot be."""
    place = alone(kind)
    place.jobs.enqueue("echo", job_id="before")
    orders = [place.jobs._order("echo", 1, None, 0) for _ in range(2)]

    class Bad:
        name = "echo"
        waits = (object(),)

    orders.append(replace(orders[0], id="bad", handler=Bad()))
    with pytest.raises(TypeError, match="JSON"):
        place.jobs.engine.enqueue_many(orders)
    assert [job.id for job in place.jobs.recent()] == ["before"]


@kinds("status")
def test_a_job_beyond_its_time_limit_fails(shared, kind):
    """The limit is raised in it, and its worker keeps running."""
    place = shared(kind)
    job = place.wait(place.jobs.enqueue("spins"))
    assert (job.state, job.attempts) == ("failed", 1)
    assert job.error.startswith("JobTimeLimitError: the job spins took longer than its")
    assert "limit of 0.5 s" in job.error
    assert place.wait(place.jobs.enqueue("echo")).state == "done"


@pytest.mark.ahead
@kinds("threads")
def test_a_job_that_does_not_end_costs_its_process(alone, kind):
    """And an attempt. Other jobs of that process are started again."""
    place = alone(kind)
    place.work(processes=1, threads=2)
    other = place.jobs.enqueue("held", str(place.root / "gate"))
    place.until(lambda: place.times("start", other), "another starts")
    job_id = place.jobs.enqueue("stuck")
    job = place.wait(job_id)
    assert (job.state, job.attempts) == ("failed", 2), place
    assert job.error.startswith("JobTimeLimitError")
    assert [words[2] for words in place.notes if words[0] == "stuck"] == ["1", "2"]
    (place.root / "gate").touch()
    assert place.wait(other).state == "done"
    assert [job.id for job in place.jobs.failed()] == [job_id]


@kinds()
def test_what_an_observer_sends_along(shared, kind):
    """It comes with each attempt, and after a retry by hand; the payload is as ever."""
    place = shared(kind)
    jobs = with_handlers(
        Jobs(place.url, queue=place.queue, results=place.results,
             observers=[Carries("greetings")])
    )  # fmt: skip
    twice = jobs.enqueue("defers")
    file = place.root / f"file_{uuid4().hex}"
    again = jobs.enqueue("until", str(file))

    def attempts(job_id):
        return [int(words[3]) for words in place.notes
                if words[:3] == ["carried", job_id, "greetings"]]  # fmt: skip

    place.until(lambda: attempts(twice) == [1, 2], "two attempts")
    place.until(lambda: attempts(again) == [1], "an attempt")
    if kind.can("retry"):
        job = place.wait(again, "failed")
        assert json.loads(job.payload) == str(file)
        file.touch()
        jobs.retry(again)
        place.wait(again, "done")
        place.until(lambda: attempts(again) == [1, 1], "the attempt after the retry")
    flushed = ["flushed", "greetings"] in [words[:2] for words in place.notes]
    assert flushed == (kind.package == "rq")  # where exit handlers do not run
    jobs.engine.close()
