"""The thread that ends what takes too long in pools."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from time import monotonic

import pytest

from wsgi_defer._runtime.stop_orders import TimeUp
from wsgi_defer.pools._deadlines import Deadlines

from ...helpers.waiting import until


class Thing:
    """It is due in so many seconds."""

    def __init__(self, seconds, error=None):
        self.deadline = monotonic() + seconds
        self.error = error
        self.expired = threading.Event()

    def expire(self):
        self.expired.set()
        if self.error is not None:
            raise self.error


@pytest.fixture
def deadlines():
    return Deadlines()


@pytest.fixture
def queue(deadlines):
    queue = OrderedDict()
    deadlines.watch(queue)
    return queue


def test_what_is_due_leaves_its_queue(deadlines, queue):
    """In order; the rest stays, and the thread sleeps until then."""
    first, second, third = things = [Thing(0), Thing(0.02), Thing(3600)]
    for thing in things:
        queue[thing] = None
    deadlines.wake()
    assert first.expired.wait(10)
    assert second.expired.wait(10)
    while deadlines.next_look != third.deadline:
        assert monotonic() < third.deadline - 3580
    assert list(queue) == [third]


def test_something_earlier(deadlines, queue):
    """It wakes the thread, which looks at all queues."""
    queue[later := Thing(3600)] = None
    deadlines.wake()
    # Its first look is over. It would find what is added now without being woken.
    until(lambda: deadlines.next_look == later.deadline)
    other = OrderedDict()
    deadlines.watch(other)
    thing = Thing(0.02)
    # Before it is there: a second look, that of wake(), may still be to come.
    assert thing.deadline < deadlines.next_look
    other[thing] = None
    deadlines.wake()
    assert thing.expired.wait(10)
    deadlines.unwatch(other)
    assert list(deadlines._queues.values()) == [queue]


@pytest.mark.parametrize("error", [ValueError("boom"), SystemExit("boom")])
def test_one_that_fails(deadlines, queue, caplog, error):
    """It is logged, and the next one has its turn."""
    first, second = Thing(0, error), Thing(0)
    queue.update({first: None, second: None})
    deadlines.wake()
    assert second.expired.wait(10)
    assert "boom" in caplog.text


def test_a_thread_that_cannot_be_started(deadlines, queue, monkeypatch):
    """The next one who needs it tries again."""

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError):
        deadlines.wake()
    monkeypatch.undo()
    thing = Thing(0)
    queue[thing] = None
    deadlines.wake()
    assert thing.expired.wait(10)


def test_a_queue_that_changes_while_it_is_looked_at(deadlines):
    """It is looked at once more."""

    class Changing(OrderedDict):
        looks = 0

        def __iter__(self):
            self.looks += 1
            if self.looks == 1:
                raise RuntimeError("OrderedDict mutated during iteration")
            return super().__iter__()

    queue, thing = Changing(), Thing(0)
    queue[thing] = None
    deadlines.watch(queue)
    deadlines.wake()
    assert thing.expired.wait(10)


def test_nothing_to_wait_for(deadlines):
    """It sleeps, until something comes."""
    assert deadlines.next_look == math.inf
    deadlines.wake()
    assert deadlines.next_look == math.inf


def test_an_order_to_stop_while_the_thread_is_to_be_started(deadlines, queue):
    """It may come at any line; whoever is next starts the thread."""

    class Lock:
        def __enter__(self):
            """It is there."""

        def __exit__(self, *_):
            raise TimeUp

    queue[thing := Thing(0)] = None
    lock, deadlines._lock = deadlines._lock, Lock()
    with pytest.raises(TimeUp):
        deadlines.wake()
    deadlines._lock = lock
    deadlines.wake()
    assert thing.expired.wait(10)
