"""The table: every set-up by every shape by every protocol, each cell a test.

See cell.py for how a cell is judged, servers.py for the set-ups, and faults.py for the
cells that are wrong, each with its reason.
"""

from __future__ import annotations

import pytest

from . import faults, servers
from .cell import SHAPES, Cell, measure
from .table import as_markdown, as_text, cells_of, reasons

CELLS = [
    pytest.param(name, shape, protocol, id=f"{name}-{shape}-{protocol}")
    for name in servers.SETUPS
    for shape, protocol in cells_of(name)
]


@pytest.mark.promise("L1", "S1", "S6", "N12")
@pytest.mark.parametrize(("name", "shape", "protocol"), CELLS)
def test_cell(table, name, shape, protocol):
    """Right, or wrong in the words and for the reason that faults.py has."""
    if missing := servers.SETUPS[name].missing():
        pytest.skip(f"{name}: {missing} is not installed: make services")
    cell = table.cells(name)[shape, protocol]
    wanted, reason = faults.expected(name, shape, protocol)
    if wanted == "ok":
        assert str(cell) == "ok", cell
    else:
        assert str(cell) != "ok", f"it is right now: take it off faults.py ({reason})"
    if faults.is_unreachable(name, shape, protocol):
        assert set(cell.faults) == set(wanted.split()), cell
    if reason.startswith(faults.OWN):
        assert cell.own, f"it is right with nothing deferred, so not: {reason}"


def test_the_keys_of_faults_name_something():
    """Each entry of faults.py has set-ups, shapes and protocols that exist."""
    protocols = {
        protocol for setup in servers.SETUPS.values() for protocol in setup.protocols
    }
    for setups, shapes, spoken in faults.UNREACHABLE:
        for patterns, names in (
            (setups, servers.SETUPS), (shapes, SHAPES), (spoken, protocols),
        ):  # fmt: skip
            for pattern in patterns.split():
                assert any(faults.matches(name, pattern) for name in names), pattern


@pytest.mark.parametrize(("half_close", "fault"), [(True, "ok"), (False, "eof-late")])
def test_a_fault_is_seen(monkeypatch, half_close, fault):
    """With the half-close taken out of the library, the cell says so."""
    with servers.running("gunicorn-sync") as server:
        cell = measure(server, "list", "close")
        assert str(cell) == "ok"
    if not half_close:
        monkeypatch.setenv("WIRE_WITHOUT", "half-close")
    with servers.running("gunicorn-sync") as server:
        cell = measure(server, "list", "close", known=fault)
        assert str(cell) == fault


def test_the_table_is_printed():
    """A letter for each protocol, a word in Markdown, and the reasons below."""
    bad = Cell(["late"])
    results = {"granian": dict.fromkeys(cells_of("granian"), Cell())}
    results["granian"]["list", "keep"] = bad
    assert "..L" in as_text(results)
    assert "1.0/close: ok; keep: late" in as_markdown(results)
    assert "| n/a |" in as_markdown(results)
    assert servers.NO_WRITE in reasons(results)
