"""``python -m wsgi_defer.lint``: real servers, and one that is wrong on purpose."""

from __future__ import annotations

import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from wsgi_defer.lint import __main__ as command
from wsgi_defer.lint._probe import PROTOCOLS
from wsgi_defer.lint._promises import examine
from wsgi_defer.lint._server import Server

TABLE = Path(__file__).parents[1] / "wire" / "TABLE.md"
PATIENCE = 30.0
GUNICORN = "gunicorn --config python:tests.wire.plain --no-control-socket -b {bind} "
# The quick ones, by their names in that table. What else was compared is in docs.
SERVERS = {
    "gunicorn-sync": f"{GUNICORN} {{app}}",
    "gunicorn-gthread": f"{GUNICORN} --threads 4 {{app}}",
    "waitress": "waitress-serve --listen={bind} {app}",
    "cheroot": "cheroot --bind {bind} {app}",
    "uwsgi-http": f"uwsgi --http-socket {{bind}} --virtualenv {sys.prefix} "
    "--wsgi {app} --master --die-on-term --need-app",
}
SHAPES = ["list", "generator", "iterator", "write", "empty", "204", "file_length",
          "head_empty", "big_reset", "raise", "raise_first"]  # fmt: skip
# What the other server does wrong, the shapes by which that is seen, and the rules.
FAULTS = {
    "none": (["list", "iterator", "raise", "big_reset"], set()),
    "shared": ([], {1}),
    "status": (["list"], {5}),
    "twice": (["list"], {5, 6, 7, 13}),
    "silent": (["raise"], {6}),
    "forward": ([], {7, 13}),
    "early": (["iterator"], {9, 10}),
    "holding": (["list_length"], {10}),
    "fragile": ([], {13}),
}


def run(name, fault=None):
    """Examine one server."""
    if fault is None:
        with Server(SERVERS[name], "wsgi_defer.lint._app:app") as server:
            return examine(server, SHAPES, PATIENCE)
    how = f"{sys.executable} -m tests.helpers.native_server {fault} {{host}} {{port}}"
    with Server(f"{how} {{app}}", "wsgi_defer.lint._app:native") as server:
        # What is known to be wrong is seen soon.
        return examine(server, FAULTS[fault][0], 1.0 if fault != "none" else PATIENCE)


@pytest.fixture(scope="module")
def results():
    """What came of each, all at the same time: they mostly wait."""
    there = [
        name for name, line in SERVERS.items()
        if Path(sys.executable).with_name(line.split()[0]).exists()
        or shutil.which(line.split()[0])
    ]  # fmt: skip
    with ThreadPoolExecutor(4) as pool:
        found = {name: pool.submit(run, name) for name in there}
        found |= {fault: pool.submit(run, "", fault) for fault in FAULTS}
        return {name: future.result() for name, future in found.items()}


def of_the_table(name):
    """The row of TABLE.md: a word for each shape and protocol."""
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in TABLE.read_text().splitlines()
        if line.startswith(("| set-up |", f"| {name} |"))
    ]
    words = {}
    for shape, cell in zip(lines[0][1:], lines[1][1:], strict=True):
        if cell in ("ok", "n/a"):
            cell = f"{'/'.join(PROTOCOLS)}: {cell}"
        for part in cell.split("; "):
            protocols, _, word = part.partition(": ")
            words |= dict.fromkeys(((shape, p) for p in protocols.split("/")), word)
    return words


@pytest.mark.promise("R1", "R2", "R3", "R4", "R5", "R6", "R7", "R8", "R9", "R10")
@pytest.mark.parametrize("name", SERVERS)
def test_a_server_as_the_table_of_the_wire_tests_has_it(results, name):
    """All is kept, and each cell is the same; what is wrong is the server's own."""
    if name not in results:
        pytest.skip(f"{name} is not installed: make services")
    promises, cells = results[name]
    assert [promise for promise in promises if not promise.kept] == []
    wanted = of_the_table(name)
    seen = {
        (shape, protocol): str(cell).strip("()")
        for shape, row in cells.items()
        for protocol, cell in row.items()
    }
    assert seen == {key: word for key, word in wanted.items() if key[0] in SHAPES}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_with_a_list_of_its_own(results, fault):
    """Each fault is found, by its rule; none is, where there is none."""
    promises, _ = results[fault]
    broken = {promise.rule for promise in promises if not promise.kept}
    assert broken == FAULTS[fault][1], promises


def test_the_command(results, capsys):
    """It prints the table, or JSON, and its status tells; a server without a list."""
    native = f"{sys.executable} -m tests.helpers.native_server none {{host}} {{port}} "
    line = ["--server", f"{native} {{app}}", "--native", "--shapes", "list"]
    assert command.main([*line, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["kept"]
    assert said["cells"]["list"]["keep"] == {"faults": [], "own": False, "notes": []}
    assert command.main(["--server", "echo {bind}"]) == 2
    assert "does not listen" in capsys.readouterr().err
    assert command.main(["--server", "x {nothing}"]) == 2
    assert "{bind}" in capsys.readouterr().err
    assert command.main(["--server", "/no/such/program"]) == 2
    promises, cells = results["holding"]
    text = command.as_text(promises, cells)
    assert "BROKEN    10  the end of the stream comes before (list_length (1.0)" in text
    assert "list_length  eof-late       eof-late       eof-late" in text
