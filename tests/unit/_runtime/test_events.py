"""The catalogue of events, its page in the docs, and who logs them."""

from __future__ import annotations

import ast
import logging
import re
from pathlib import Path

from wsgi_defer._runtime import events

HOME = Path(__file__).parents[3]
PAGE = (HOME / "docs" / "observe.md").read_text()
ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in PAGE.splitlines()
    if line.startswith("| `")
]
# What stands for several fields, in the column of the fields.
GROUPS = {
    "the call's": "`call` `kind` `origin` `request_id` `status` `waited` `ran`",
    "the job's": "`job` `job_id` `attempt`",
}
OF_EACH = {"event", "worker"}
CALLS = [
    (path.relative_to(HOME), node)
    for path in sorted((HOME / "wsgi_defer").glob("**/*.py"))
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
]


def names_in(cell):
    """The fields that a cell of the page names."""
    for group, members in GROUPS.items():
        cell = cell.replace(group, members)
    return set(re.findall(r"`(\w+)`", cell))


def test_the_page_has_each_event():
    """With its level and its fields, and no other event."""
    told = {
        row[0].strip("`"): (row[1], names_in(row[3])) for row in ROWS if len(row) == 5
    }
    assert told == {
        event.name: (logging.getLevelName(event.level), set(event.fields))
        for event in events.CATALOGUE.values()
    }


def test_the_page_explains_each_field():
    """Those that some event has, and no other."""
    explained = set().union(*(names_in(row[0]) for row in ROWS if len(row) == 2))
    used = OF_EACH.union(*(event.fields for event in events.CATALOGUE.values()))
    assert explained == used
    assert used - {"event"} == set(events.Facts.__annotations__)


def test_the_name_of_an_event():
    """That of its constant."""
    for name, event in events.CATALOGUE.items():
        assert getattr(events, name.upper()) is event


def test_who_logs_names_an_event():
    """Of the catalogue, and every one of it is logged somewhere."""
    named = set()
    for path, call in CALLS:
        where = f"{path}:{call.lineno}"
        if ast.unparse(call.func) not in ("report.log", "report.failure"):
            continue
        found = {
            node.attr
            for node in ast.walk(call.args[0])
            if isinstance(node, ast.Attribute)
        }
        assert found, where
        assert found <= {name.upper() for name in events.CATALOGUE}, where
        named |= found
    assert named == {name.upper() for name in events.CATALOGUE}


def test_the_page_has_the_words_of_each_line():
    """Or their beginning, of some part between what is filled in."""
    lines = {row[0].strip("`").upper(): row[2] for row in ROWS if len(row) == 5}
    for path, call in CALLS:
        if ast.unparse(call.func) not in ("report.log", "report.failure"):
            continue
        message = call.args[1 if call.func.attr == "log" else 2].value
        parts = [part.strip(" ;:,()") for part in re.split(r"%[\d.]*\w", message)]
        if not (parts := [part[:16] for part in parts if part]):
            continue  # it is all filled in
        for name in re.findall(r"events\.(\w+)", ast.unparse(call.args[0])):
            found = [part for part in parts if part in lines[name]]
            assert found, f"{path}:{call.lineno}"


def test_nobody_logs_otherwise():
    """A line of a logger, not of ``report``, would have no event."""
    methods = {"debug", "info", "warning", "error", "exception", "critical", "log"}
    for path, call in CALLS:
        logs = ast.unparse(call.func.value).endswith(("logger", "logging", ".log"))
        assert not (logs and call.func.attr in methods), f"{path}:{call.lineno}"
