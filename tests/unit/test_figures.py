"""The figures of the ledger: what became of calls and requests, read while it lives."""

from __future__ import annotations

import gc
import os
import socket
import threading
import time
from types import SimpleNamespace

import pytest

from wsgi_defer import DeferMiddleware, before_response, current_scope, defer, deferring
from wsgi_defer._calls.drain import report_lost
from wsgi_defer._runtime import recording
from wsgi_defer.ledger import Histogram, Ledger, _reader, _snapshot, snapshot
from wsgi_defer.ledger import _layout as at
from wsgi_defer.ledger._queue import listen_queue
from wsgi_defer.ledger._reader import read
from wsgi_defer.observers._observers import observe_process, stop_observing

from ..helpers.client import get, text_app


@pytest.fixture
def book():
    return Ledger(pages=4)


def begin(book):
    """Be the worker that has the next page."""
    recorder = book.recorder(book.take_page())
    observe_process(recorder)
    recording.install(recorder)
    return recorder


def end(recorder):
    recording.install(None)
    stop_observing(recorder)


@pytest.fixture
def recorder(book):
    """Everything in this process goes into page 0."""
    recorder = begin(book)
    yield recorder
    end(recorder)


def look(book, **more):
    return read(book, **{"whole": True, "listeners": [], **more})


def results(taken):
    """What became of how many calls, by name."""
    return {call.name: call[1:5] for call in taken.calls}


def fail():
    raise ValueError("secret")


def work():
    """One scope, with each result: finished, failed, skipped, lost."""
    with deferring():
        defer(int).named("a")
        defer(fail).named("a")
        defer(int).named("b").on_failure()
        defer(int).named("c").cancel()
    with deferring():
        defer(int).named("d")
        report_lost(current_scope(), "the end")


ALL = {"a": (0, 1, 1, 0), "b": (0, 0, 1, 0), "c": (0, 0, 1, 0), "d": (0, 0, 0, 1)}


def test_what_became_of_calls(book, recorder):
    """By name; the same when the worker has died, and in a worker after it."""
    work()
    assert results(look(book)) == ALL
    end(recorder)
    assert book.close_page(0) == ([], 0)
    taken = look(book)
    assert results(taken) == ALL
    assert taken.workers == ()
    assert taken.lost == book.lost_so_far() == 1
    for _ in range(2):  # on the same page again
        again = begin(book)
        work()
        end(again)
        book.close_page(0)
    assert results(look(book)) == {
        name: tuple(number * 3 for number in numbers) for name, numbers in ALL.items()
    }


def test_what_is_found_on_a_dead_worker_page(book, recorder):
    """What waited or ran is lost; what was cancelled is skipped; each is counted."""
    recorder._free[:] = recorder._free[-4:]
    with deferring() as scope:
        calls = [defer(int).named(name) for name in "rwcxyz"]
        calls[2].cancel()
        calls[0].started_at = 1.0
        recorder.started(calls[0], scope)
        recorder.started(calls[4], scope)  # there is still no room for its name
        taken = look(book)
        found = {call.name: (call.waiting, call.running) for call in taken.calls}
        assert found == {"r": (0, 1), "w": (1, 0), "c": (0, 0), "x": (1, 0)}
        assert results(taken)["c"] == (0, 0, 1, 0)
        assert taken.workers[0].waiting == 4  # two of them without an entry
        assert taken.oldest_waiting >= 0
        recorder.forget()
        left, unnamed = book.close_page(0)
        report_lost(scope, "the test has seen enough")
    assert (len(left), unnamed) == (3, 2)
    assert results(look(book)) == {
        "r": (0, 0, 0, 1), "w": (0, 0, 0, 1), "c": (0, 0, 1, 0), "x": (0, 0, 0, 1),
        "other": (0, 0, 0, 2),
    }  # fmt: skip


def test_a_stop_before_the_entry_of_a_call(book, recorder):
    """Of one that was counted without a name, and starts: it is counted once."""
    free, recorder._free[:] = recorder._free[:], []
    with deferring() as scope:
        call = defer(int)
        recorder._free[:] = free
        recorder._fill(call, scope, "int")
        recorder.lost(call, scope, "")
        assert book.numbers[recorder._page + at.UNNAMED] == 0
        assert results(look(book)) == {"builtins.int": (0, 0, 0, 1)}
        report_lost(scope, "the test has seen enough")


def test_more_names_than_records(book, recorder):
    """They are one, in the worker and in the master, and none is lost."""
    for number in range(at.MOST_NAMES + 10):
        with deferring():
            defer(int).named(f"n{number:03}")
    taken = look(book)
    assert results(taken)["other"] == (10, 0, 0, 0)
    assert len(taken.calls) == at.MOST_NAMES + 1
    end(recorder)
    book.close_page(0)
    second = begin(book)
    with deferring():
        defer(int).named("a new one")
    end(second)
    assert results(look(book))["a new one"] == (1, 0, 0, 0)
    book.close_page(0)
    assert results(look(book))["other"] == (11, 0, 0, 0)
    assert sum(call.finished for call in look(book).calls) == at.MOST_NAMES + 11


def test_histograms(book, recorder):
    """Of the calls that have run, and in the right bucket."""
    with deferring() as scope:
        for waited, ran in ((0.005, 0.02), (0.006, 100.0), (-1, -1), (0.004, 0.02)):
            call = defer(int)
            call.queued_at = 100.0
            call.started_at = call.queued_at + waited
            call.ended_at = call.started_at + ran
            recorder.finished(call, scope)
        report_lost(scope, "the test has seen enough")
    [call] = look(book).calls
    assert call.name == "builtins.int"
    assert call.ran.bounds[:2] == (0.005, 0.01)
    assert call.ran.counts == (1, 0, 2, *[0] * 13, 1)
    assert call.waited.counts in ((3, 1, *[0] * 15), (2, 2, *[0] * 15))
    assert call.ran.sum == pytest.approx(100.04)


def test_quantiles():
    """Between the bounds of a bucket, in proportion."""
    histogram = Histogram((1.0, 2.0, 4.0), (2, 0, 2, 0), 7.0)
    assert histogram.total == 4
    assert [histogram.quantile(q) for q in (0, 0.25, 0.5, 0.75, 1)] == [0, 0.5, 1, 3, 4]
    assert Histogram((1.0,), (0, 3), 9.0).quantile(0.5) == 1.0
    assert Histogram((1.0,), (0, 0), 0.0).quantile(0.5) is None
    with pytest.raises(ValueError, match="from 0 to 1, not 50"):
        histogram.quantile(50)


def test_failures(book, recorder):
    """The latest first, fifty at most, without the message; also of dead workers."""
    app = DeferMiddleware(text_app(lambda: defer(fail).named("line\nbreak")))
    get(app)
    [failure] = look(book).failures
    assert failure[1:] == (
        "line\\nbreak",
        "ValueError",
        failure.origin,
        f"{os.getpid()}-1",
        os.getpid(),
    ) or failure.request_id.startswith(f"{os.getpid()}-")
    assert failure.origin.rpartition(":")[0].endswith("test_figures.py")
    assert abs(failure.at - time.time()) < 60
    for number in range(60):
        with deferring():
            defer(fail).named(str(number))
    end(recorder)
    book.close_page(0)
    other = begin(book)
    with deferring():
        defer(fail).named("the last one")
    end(other)
    names = [each.name for each in look(book).failures]
    assert names == ["the last one", *map(str, range(59, 10, -1))]
    book.close_page(0)
    assert [each.name for each in look(book).failures] == names


def test_requests_and_states(book, recorder):
    """What a worker does, since when, and with which call."""
    seen = []

    def note():
        seen.append(look(book).workers[0])

    def view():
        note()
        before_response(note)
        defer(note).named("the call")

    idle = look(book).workers[0]
    began = time.time()
    get(
        DeferMiddleware(text_app(view)),
    )
    note()
    recorder.stopping()
    recorder.stopping()
    note()
    get(DeferMiddleware(text_app(int)))
    states = [each.state for each in [idle, *seen]]
    assert states == [
        "idle", "request", "request", "after response", "idle", "stopping"
    ]  # fmt: skip
    assert [each.requests for each in seen] == [0, 0, 1, 1, 1]
    assert look(book).requests == 2
    assert seen[2].call == "the call"
    assert seen[2].request_id
    assert seen[0].call == seen[3].call == ""
    assert seen[0].waiting == 0
    assert seen[1].waiting == 1
    assert all(each.since >= began - 0.01 for each in seen)
    assert seen[0].pid == os.getpid()
    assert seen[0].memory > 1_000_000
    end(recorder)
    book.close_page(0)
    assert look(book).requests == 2


def test_calls_of_several_threads(book, recorder):
    """The one that has run longest is shown."""
    with deferring() as scope:
        calls = [defer(int).named(name) for name in "ab"]
        scope.outcome = object()
        for call, since in zip(calls, (20.0, 10.0), strict=True):
            call.started_at = since
            recorder.started(call, scope)
        worker = look(book).workers[0]
        report_lost(scope, "the test has seen enough")
    assert (worker.state, worker.call) == ("after response", "b")


@pytest.mark.parametrize("kind", ["list", "generator", "dropped", "raises"])
def test_a_request_ends_once(book, recorder, kind):
    """Whatever becomes of its response."""

    def app(environ, start_response):
        if kind == "raises":
            raise ValueError
        start_response("200 OK", [])
        return [b"x"] if kind == "list" else (b"x" for _ in "ab")

    if kind == "dropped":
        body = DeferMiddleware(app)({}, lambda *args: None)
        next(iter(body))
        del body
        gc.collect()
    elif kind == "raises":
        with pytest.raises(ValueError):
            get(DeferMiddleware(app))
    else:
        get(DeferMiddleware(app))
    assert look(book).requests == 1
    assert look(book).workers[0].state == "idle"
    assert len(recorder._lanes) == at.LANES_AT_ONCE


def test_more_requests_at_once_than_lanes(book, recorder):
    """They are counted, if not seen while they last."""
    recorder._lanes.clear()
    get(DeferMiddleware(text_app(int)))
    assert look(book).requests == 1


def test_requests_that_nobody_recorded_at_first(book):
    """They are not counted at their end either."""

    def view():
        recorders.append(begin(book))

    recorders = []
    get(DeferMiddleware(text_app(view)))
    end(recorders[0])
    assert look(book).requests == 0


def test_the_last_minute(book, recorder):
    """Seconds in requests and after responses, of what has ended and what has not."""
    minute = recorder._minute
    now = float(int(time.monotonic())) + 0.5
    minute.spread(now - 100, now - 57.5, at.IN_REQUEST)
    minute.spread(now - 1.75, now - 0.25, at.AFTER_RESPONSE)
    minute.spread(now - 0.25, now, at.IN_REQUEST)
    read_minute = _reader.read_minute
    place = recorder._page + at.MINUTE
    seconds = read_minute(book.memory, place, now, [])
    assert len(seconds) == 60
    assert seconds[:4] == ((1.0, 0.0), (1.0, 0.0), (0.0, 0.0), (0.0, 0.0))
    assert seconds[-3:] == ((0.0, 0.25), (0.0, 1.0), (0.25, 0.25))
    under_way = [(now - 200, at.IN_REQUEST), (now - 1.5, at.AFTER_RESPONSE)]
    seconds = read_minute(book.memory, place, now, under_way)
    assert seconds[-3:] == ((1.0, 0.25), (1.0, 2.0), (0.75, 0.75))
    assert seconds[0] == (2.0, 0.0)


def test_what_ends_across_seconds(book, recorder, monkeypatch):
    """It is attributed to each."""
    now = time.monotonic()
    request = SimpleNamespace(lane=recorder.begin(now - 2))
    recorder.end(request, now - 2)
    spent = sum(each[0] for each in look(book).workers[0].minute)
    assert 2 <= spent < 30
    request = SimpleNamespace(lane=recorder.begin(now))
    recorder.end(request, now)
    with deferring() as scope:
        call = defer(int)
        scope.outcome = object()
        call.started_at, call.ended_at = now - 3, now
        recorder.finished(call, scope)
        report_lost(scope, "the test has seen enough")
    spent = sum(each[1] for each in look(book).workers[0].minute)
    assert 2.99 < spent < 3.01


def test_slow_calls(book, recorder):
    """They are counted, also those of dead workers."""
    recorder.slow(None, None, 1.0, "")
    assert look(book).slow == 1
    end(recorder)
    book.close_page(0)
    assert look(book).slow == 1


def test_threads_lose_no_count(book, recorder):
    """Many at once, of calls and of requests."""

    def serve():
        for _ in range(100):
            get(app)

    app = DeferMiddleware(
        text_app(lambda: [defer(int).named("n"), defer(fail).named("m")])
    )
    threads = [threading.Thread(target=serve) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = look(book)
    assert results(taken) == {"n": (400, 0, 0, 0), "m": (0, 400, 0, 0)}
    assert taken.requests == 400
    assert [call.ran.total for call in taken.calls] == [400, 400]


def test_what_comes_back_in_the_middle(book, recorder):
    """The collector, or a handler, at any line: it is told when that line's work is
    done."""
    with deferring() as scope:
        one, other, third, fourth = (defer(int).named(name) for name in "abcd")
        note = recorder._new_record

        def come_back(label):
            if label == "a":
                recorder.skipped(other, scope, "")
                recorder.failed(third, scope, ValueError())
                recorder.slow(fourth, scope, 1.0, "")
            return note(label)

        recorder._new_record = come_back
        recorder.skipped(one, scope, "")
        taken = look(book)
        assert results(taken) == {
            "a": (0, 0, 1, 0), "b": (0, 0, 1, 0), "c": (0, 1, 0, 0), "d": (0, 0, 0, 0)
        }  # fmt: skip
        assert taken.slow == 1
        recorder._new_record = note
        recorder._alone(lambda: recorder.skipped(fourth, scope, ""))
        assert results(look(book))["d"] == (0, 0, 1, 0)
        report_lost(scope, "the test has seen enough")


@pytest.mark.parametrize("who", ["the worker", "the worker, noting", "the master"])
def test_a_journal_that_was_not_done(book, recorder, who):
    """Done by whoever comes next, once."""
    with deferring() as scope:
        calls = [defer(int).named("n") for _ in range(2)]
        numbers, start = recorder._numbers, recorder._page
        recorder.skipped(calls[0], scope, "")
        # As if it had been interrupted when the journal was complete.
        counter = numbers[start + at.JOURNAL]
        numbers[start + at.SEQUENCE] -= 1
        numbers[counter] -= 1
        if who == "the worker":
            recorder.skipped(calls[1], scope, "")
        elif who == "the master":
            recorder.forget()
            end(recorder)
            assert len(book.close_page(0)[0]) == 1
        else:
            recorder.slow(calls[1], scope, 1.0, "")
            recorder.skipped(calls[1], scope, "")
        skipped, lost = results(look(book))["n"][2:]
        assert (skipped, lost) == ((1, 1) if who == "the master" else (2, 0))
        report_lost(scope, "the test has seen enough")


def test_calls_from_before(book):
    """Those that were registered before anybody recorded are not counted; but a loss
    is: an order to stop may have come while it was registered."""
    with deferring() as scope:
        calls = [defer(int).named(name) for name in "ab"]
        recorder = begin(book)
        recorder.started(calls[0], scope)
        recorder.finished(calls[0], scope)
        recorder.lost(calls[1], scope, "")
        end(recorder)
    assert results(look(book)) == {"b": (0, 0, 0, 1)}


def test_a_reader_never_sees_a_half(book, recorder, monkeypatch):
    """It waits until the writer is done, but not for ever."""
    monkeypatch.setattr(_reader, "PAUSE", 0)
    work()
    places = [recorder._page + at.SEQUENCE, book.last + at.SEQUENCE]
    for place in places:
        waits = []

        def settle(seconds, place=place, waits=waits):
            waits.append(seconds)
            if len(waits) == 3:
                book.numbers[place] += 1

        monkeypatch.setattr(_reader.time, "sleep", settle)
        book.numbers[place] += 1
        assert results(look(book)) == ALL
        assert len(waits) == 3
        monkeypatch.setattr(_reader.time, "sleep", lambda seconds: None)
        book.numbers[place] += 1
        assert results(look(book)) == ALL
        book.numbers[place] += 1


def test_two_workers(book, recorder):
    """The oldest first; a name that both have is one."""
    work()
    end(recorder)
    other = begin(book)
    work()
    end(other)
    taken = look(book)
    assert len(taken.workers) == 2
    assert results(taken)["a"] == (0, 2, 2, 0)


def test_the_queue(book, recorder):
    """Of TCP listeners, where the system tells; the longest that was seen."""
    with socket.create_server(("127.0.0.1", 0), backlog=7) as listener:
        with socket.create_connection(listener.getsockname()):
            listener.settimeout(30)
            number = listener.fileno()
            while look(book, listeners=[number]).queue == 0:
                time.sleep(0.01)
            assert look(book, listeners=[number, number]).queue == 2
            listener.accept()[0].close()
        taken = look(book, listeners=[number])
        assert (taken.queue, taken.queue_longest, taken.queue_limit) == (0, 2, 7)
        with socket.socket(socket.AF_UNIX) as local:
            assert listen_queue([local.fileno()]) == (None, None)
    assert listen_queue([number]) == (None, None)


def test_the_queue_elsewhere_than_on_linux(monkeypatch):
    """Unknown."""
    monkeypatch.setattr("wsgi_defer.ledger._queue.sys.platform", "darwin")
    assert listen_queue([0]) == (None, None)


def test_all_busy(book, recorder, monkeypatch):
    """Counted once for each time that they become so, and only if it hurts."""
    queue = [None, None]
    monkeypatch.setattr(_reader, "listen_queue", lambda listeners: queue)
    assert look(book).all_busy == 0  # nobody else is there
    other = book.recorder(book.take_page())
    book.numbers[at.PAGE + at.PID] = 2**22 + 1
    assert look(book).all_busy == 0
    lane = other.begin(time.monotonic())
    assert [look(book).all_busy for _ in range(2)] == [1, 1]
    queue[:] = [0, 5]
    assert look(book).all_busy == 1  # no client waits
    queue[:] = [1, 5]
    assert look(book).all_busy == 2
    other.end(SimpleNamespace(lane=lane), 0.0)
    taken = look(book)
    assert (taken.all_busy, taken.queue_longest) == (2, 1)
    assert taken.workers[-1].memory is None  # there is no such process


@pytest.fixture
def known(monkeypatch):
    """As in a process that has never heard of a ledger."""
    known = _snapshot._Known()
    monkeypatch.setattr(_snapshot, "_known", known)
    yield known
    known.stop()


def test_without_a_master(known):
    """This process alone, from the first snapshot on; a child begins anew."""
    with deferring():
        defer(int)
    assert snapshot().calls == ()
    work()
    taken = snapshot()
    assert results(taken) == ALL
    assert not taken.whole
    assert [worker.pid for worker in taken.workers] == [os.getpid()]
    known.after_fork()
    assert snapshot().calls == ()
    work()
    assert results(snapshot()) == ALL


def test_with_a_master(known, book):
    """Its ledger takes the place of one's own."""
    known.after_fork()
    _snapshot.record()
    book.name = "shop"
    _snapshot.share(book)
    _snapshot.listen([])
    _snapshot.record()
    work()
    taken = snapshot()
    assert (taken.whole, taken.name, taken.calls) == (True, "shop", ())
    assert taken.started_at == book.started_at
    assert recording.requests is None
