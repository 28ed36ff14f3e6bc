"""The table: every gunicorn and worker class by every event, each cell a test.

See cell.py for how a cell is judged, and faults.py for what cannot be otherwise.
"""

from __future__ import annotations

import signal

import pytest

from . import CALLS, faults
from .cell import EVENTS, ROWS, Cell, measure, missing
from .gunicorns import configuration, is_loss, lost_in, running
from .table import as_markdown, as_text, words

CELLS = [(row, event) for row in ROWS for event in EVENTS]


def skip_if_missing(row):
    """Skip what cannot be measured here, by its name."""
    if need := missing(row):
        pytest.skip(f"{need} is not installed: make services")


@pytest.mark.promise("S13", "N13", "X7")
@pytest.mark.ahead
@pytest.mark.parametrize(("row", "event"), CELLS)
def test_cell(row, event):
    """Every call has finished or is named, and the client got its response alone."""
    skip_if_missing(row)
    cell = measure(row, event)
    assert set(cell.faults) <= {faults.own(row, event)}, cell
    assert len(cell.finished) + len(cell.named) == len(CALLS), cell


@pytest.mark.ahead
@pytest.mark.parametrize(
    ("row", "event"),
    [(row, event) for row, event in CELLS if faults.own(row, event)],
)
def test_gunicorns_own_fault(row, event):
    """With nothing deferred, too, the client of an idle connection gets more."""
    skip_if_missing(row)
    version, worker, ours, _ = ROWS[row]
    # Idle for longer than the worker takes to end, however long that is.
    settings = {**EVENTS[event].settings, "keepalive": 60}
    conf = configuration(worker, ours=ours, hooks="", **settings)
    with running(conf, version=version) as gunicorn:
        client = gunicorn.request("/")
        gunicorn.send(signal.SIGHUP)
        assert b" 500 " in client.surplus()[:20]


@pytest.mark.ahead
@pytest.mark.parametrize(
    ("event", "fault"), [("SIGKILL", "1+0 silent"), ("TERM", "3+0")]
)
def test_silence_is_seen(event, fault):
    """Without the hooks nobody knows what a killed worker has lost."""
    assert str(measure("27-sync", event, hooks="", report=5.0)) == fault


def test_a_wrong_cell_is_seen():
    """Calls that were cut off, or are said to be lost though they finished."""
    cell = Cell({"first-call", "second-call"}, {"second-call"})
    cell.judge("27-sync", "TERM")
    assert cell.faults == ["silent", "both", "cut"]
    assert str(cell) == "2+1 silent both cut"


def test_only_our_lines_tell_of_losses():
    """Not those of gunicorn, nor a traceback, nor of calls that failed."""
    log = """
        [ERROR] deferred call first-call lost while it ran: the worker was killed
        deferred call second-call failed; from app.py:1
        deferred calls lost (2): not-first-call, third-call
        second-call lost
    """
    assert lost_in(log) == {"first-call", "third-call"}
    assert not is_loss("the deferred call glossary failed")


def test_the_keys_of_faults_name_something():
    """Each entry of faults.py has rows and events that exist."""
    for rows, events in [*faults.CAN_FINISH, *faults.OWN]:
        for patterns, names in ((rows, ROWS), (events, EVENTS)):
            for pattern in patterns.split():
                assert any(faults.matches(name, pattern) for name in names), pattern


def test_the_table_is_printed():
    """A row for each gunicorn, and the reasons below."""
    results = {
        ("27-sync", "TERM"): Cell(set(CALLS)),
        ("27-sync", "SIGKILL"): Cell({"first-call"}, set(), ["silent"]),
    }
    assert as_text(results).splitlines()[1] == "27-sync  3+0   1+0 silent"
    assert "| 27-sync | 3+0 | 1+0 silent |" in as_markdown(results)
    assert "the worker is killed" in words(results)
    assert "cut off" in words(results)
