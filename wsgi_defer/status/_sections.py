"""The sections on workers, calls and failures."""

from __future__ import annotations

from ..ledger import CallFigures, Failure, Snapshot, WorkerFigures
from ._chart import chart, coarse, in_words
from ._html import code, escape, section, table, time_of
from ._totals import Totals, of_all
from ._words import NOTHING, count, memory, seconds, utc

# The class of a state, for its colour.
CLASSES = {"idle": "idle", "request": "request", "after response": "after"}


def now(snapshot: Snapshot, of: Totals) -> str:
    """The figures at a glance, those of PHP-FPM's page among them."""
    return section(
        "now", "Now",
        "" if snapshot.whole else
        '<p class="note">This is one process only. To see all workers, use gunicorn '
        "with the hooks of <code>wsgi_defer.gunicorn</code>.</p>\n",
        "<dl>\n",
        _figure("Idle workers", f"{of.idle} of {of.workers}", "idle"),
        _figure("In a request", count(of.request), "request"),
        _figure("After the response", count(of.after_response), "after"),
        _figure("Waiting calls", count(of.waiting), "",
                _if_any(snapshot.oldest_waiting, "the oldest for {}")),
        _figure("Listen queue", count(snapshot.queue), "", _queue(snapshot)),
        _figure("All workers busy", _times(snapshot.all_busy)),
        _figure("Requests served", count(snapshot.requests)),
        _figure("Slow calls", count(snapshot.slow)),
        _figure("Failed calls", count(of.failed), "bad" if of.failed else ""),
        _figure("Lost calls", count(of.lost), "bad" if of.lost else ""),
        _figure("Running for", seconds(snapshot.taken_at - snapshot.started_at), "",
                f"since {utc(snapshot.started_at)}"),
        "</dl>\n",
    )  # fmt: skip


def _figure(name: str, value: str, kind: str = "", more: str = "") -> str:
    small = f" <small>{more}</small>" if more else ""
    return f'<div class="{kind}"><dt>{name}</dt><dd>{value}{small}</dd></div>\n'


def _times(number: int) -> str:
    return "once" if number == 1 else f"{count(number)} times"


def _if_any(value: float | None, words: str) -> str:
    return "" if value is None else words.format(seconds(value))


def _queue(snapshot: Snapshot) -> str:
    if snapshot.queue_limit is None:
        return ""
    longest = count(snapshot.queue_longest)
    return f"longest {longest}, of {count(snapshot.queue_limit)}"


def workers(snapshot: Snapshot, of: Totals) -> str:
    """The last minute of all, and a row for each."""
    minute = of_all(snapshot.workers)
    return section(
        "workers", f"Workers <small>{of.workers}</small>",
        '<figure class="minute">',
        chart(minute, "All workers in the last minute: ", steps=100),
        '<figcaption><span class="key request">request</span> '
        '<span class="key after">after response</span> '
        '<span class="key idle">idle</span> '
        f"The last minute of all workers: {in_words(minute)}.</figcaption></figure>\n",
        table(
            "workers",
            "What each worker does, the oldest first",
            ("Process", "State", "Since#", "Call", "Waiting calls#", "Requests#",
             "Memory#", "Running for#", "Last minute"),
            (_worker(each, snapshot.taken_at) for each in snapshot.workers),
            "No worker has begun yet.",
        ),
    )  # fmt: skip


def _worker(worker: WorkerFigures, taken_at: float) -> str:
    request = worker.request_id
    call = code(worker.call) if worker.call else NOTHING
    if request:
        call += f" <small>request {escape(request)}</small>"
    kind = CLASSES.get(worker.state, "stopping")
    return (
        f'<tr id="worker-{worker.pid}"><th scope="row">{worker.pid}</th>'
        f'<td><span class="key {kind}">{escape(worker.state)}</span></td>'
        f'<td class="n">{seconds(taken_at - worker.since)}</td>'
        f"<td>{call}</td>"
        f'<td class="n">{count(worker.waiting)}</td>'
        f'<td class="n">{count(worker.requests)}</td>'
        f'<td class="n">{memory(worker.memory)}</td>'
        f'<td class="n">{seconds(taken_at - worker.started_at)}</td>'
        f'<td class="minute">{chart(coarse(worker.minute))}</td></tr>'
    )


def calls(snapshot: Snapshot) -> str:
    """What became of calls, by their names."""
    return section(
        "calls", "Calls",
        table(
            "calls",
            "Calls by name, since the start, of all workers",
            ("Name", "Finished#", "Failed#", "Skipped#", "Lost#", "Waiting#",
             "Running#", "Waited, median#", "99 %#", "Ran, median#", "99 %#"),
            map(_call, snapshot.calls),
            "No call has been deferred yet.",
        ),
    )  # fmt: skip


def _call(call: CallFigures) -> str:
    numbers = (
        (call.finished, ""), (call.failed, "bad"), (call.skipped, ""),
        (call.lost, "bad"), (call.waiting, ""), (call.running, ""),
    )  # fmt: skip
    cells = [
        f'<td class="n {kind if number else ""}">{count(number)}</td>'
        for number, kind in numbers
    ]
    for times in (call.waited, call.ran):
        for q in (0.5, 0.99):
            cells.append(f'<td class="n">{seconds(times.quantile(q))}</td>')
    name = code(call.name)
    return f'<tr><th scope="row">{name}</th>{"".join(cells)}</tr>'


def failures(snapshot: Snapshot) -> str:
    """The calls that failed last."""
    return section(
        "failures", "Failures",
        table(
            "failures",
            "The calls that failed last, the latest first",
            ("Time", "Call", "Error", "Deferred at", "Request", "Process"),
            map(_failure, snapshot.failures),
            "No call has failed.",
        ),
    )  # fmt: skip


def _failure(failure: Failure) -> str:
    return (
        f'<tr><th scope="row">{time_of(failure.at)}</th>'
        f"<td>{code(failure.name)}</td>"
        f'<td class="bad">{escape(failure.error)}</td>'
        f"<td>{code(failure.origin)}</td>"
        f"<td>{escape(failure.request_id) or NOTHING}</td>"
        f"<td>{failure.pid}</td></tr>"
    )
