"""The figures that one worker tells of all: under reloads, kills and max_requests."""

from __future__ import annotations

import json
import os
import signal

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from . import BODY, CALLS
from .gunicorns import configuration, running

RESULTS = ("finished", "failed", "skipped", "lost")


@pytest.fixture
def gunicorn():
    """Two workers, which end after some requests each. The app is preloaded."""
    conf = configuration(
        ours=True, workers=2, preload_app=True, max_requests=40, proc_name="shop"
    )
    with running(conf) as gunicorn:
        yield gunicorn


def figures(gunicorn):
    """What whichever worker answers says."""
    return json.loads(gunicorn.request("/figures").response.removesuffix(BODY))


def sums(taken):
    """What became of how many calls, of all names."""
    return {each: sum(call[each] for call in taken["calls"]) for each in RESULTS}


def await_sums(gunicorn, **expected):
    """Wait until these are more by so many; return what was told then."""
    found = []

    def reached():
        found[:] = [figures(gunicorn)]
        return sums(found[0]) == expected

    gunicorn.until(reached, f"the figures to be {expected}; they are {found}")
    return found[0]


def test_all_workers_are_one(gunicorn):
    """Whatever ends them, and whichever answers."""
    known = dict.fromkeys(RESULTS, 0)
    for _ in range(120):  # each of the workers ends at least once
        gunicorn.request("/calls?seconds=0")
    known["finished"] += 360
    taken = await_sums(gunicorn, **known)
    assert taken["whole"]
    assert taken["name"] == "shop"
    assert taken["requests"] >= 120
    assert taken["queue_limit"] > 0
    assert taken["queue"] >= 0

    gunicorn.request("/calls?seconds=0&status=404%20Not%20Found")
    known["skipped"] += 3
    await_sums(gunicorn, **known)

    # A worker that is killed in a call, seen by the other one before.
    gunicorn.request("/calls?prefix=slow.&seconds=0&long=60")
    pid = gunicorn.begun("slow." + CALLS[1])
    [worker] = [each for each in figures(gunicorn)["workers"] if each["pid"] == pid]
    assert (worker["state"], worker["call"]) == ("after response", "slow." + CALLS[1])
    assert worker["waiting"] == 1
    assert sum(after for _, after in worker["minute"]) > 0
    os.kill(pid, signal.SIGKILL)
    known["finished"] += 1
    known["lost"] += 2
    await_sums(gunicorn, **known)

    # All workers are new after a reload.
    before = {each["pid"] for each in figures(gunicorn)["workers"]}
    gunicorn.send(signal.SIGHUP)

    def all_are_new():
        now = {each["pid"] for each in figures(gunicorn)["workers"]}
        return len(now) == 2 and not now & before

    gunicorn.until(all_are_new, "two new workers")
    gunicorn.request("/calls?seconds=0")
    known["finished"] += 3
    taken = await_sums(gunicorn, **known)
    assert taken["lost"] == 2

    text = gunicorn.request("/metrics").response.decode()
    totals = dict.fromkeys(RESULTS, 0)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "wsgi_defer_calls_total":
                totals[sample.labels["result"]] += sample.value
    assert totals == known
