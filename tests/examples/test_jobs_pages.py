"""The pages about jobs tell the truth: each runs as printed, in an empty directory.

A block of Python whose first line names a file is written to that file. Others run
here, with the names of ``shop.py``. The commands in blocks of a console run as they
are, but on a free port. They print what the page shows, but for ids and times.
"""

from __future__ import annotations

import configparser
import inspect
import os
import re
import shlex
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from wsgi_defer import deferring
from wsgi_defer.jobs._command.arguments import PROGRAM, parser
from wsgi_defer.jobs._command.main import main

from ..helpers.sqlite import with_sqlite
from ..helpers.waiting import OF_PROCESSES, until
from ..wire.servers import free_port

HOME = Path(__file__).parents[2]
FOLDER = HOME / "docs" / "jobs"
PAGES = [path.name for path in sorted(FOLDER.glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
ID = re.compile(r"\b[0-9a-f]{32}\b")
GOES_ON = re.compile(r"gunicorn |.*jobs worker |.*jobs worker$|flask .* run ")
# The queue that users have already.
STAND_INS = {"task": SimpleNamespace(delay=abs), "count": len,
             "queue": SimpleNamespace(enqueue=print)}  # fmt: skip

pytest.importorskip("dbos")


# What differs each time, and the width of columns.
VARIES = [
    (ID, "ID"),
    (re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d([.,]\d+)?"), "TIME"),
    (re.compile(r"\[\d+\]"), "[PROCESS]"),
    (re.compile(r"\b(waited|ran) \d+\.\d+ s"), r"\1 A WHILE"),
    (re.compile(r"wsgi_defer \d[\w.]+,"), "wsgi_defer VERSION,"),
    (re.compile(r", a new file that is made now"), ""),
    (re.compile(r" +"), " "),
]


def same(text):
    """The text without what varies."""
    for pattern, replacement in VARIES:
        text = pattern.sub(replacement, text)
    return text


def environ():
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PYTHONPATH": str(HOME), "PYTHONUNBUFFERED": "1",
            "PATH": path}  # fmt: skip


class Reader:
    """Somebody who does what a page says, from the first block to the last."""

    def __init__(self, where, capsys):
        self.where = where
        self.capsys = capsys
        self.port = str(free_port())
        self.ids = {}  # ours, by those on the page
        self.running = []
        self.names = None

    def follow(self, text):
        # What a worker shows is then due to a request, which comes later.
        self.stops_at_once = "$ curl" not in text
        for language, block in BLOCK.findall(text):
            getattr(self, language)(block)
        self.stop()

    def here(self, text):
        """The text with our directory, port and ids."""
        text = text.replace("/srv/shop", str(self.where)).replace("8000", self.port)
        return ID.sub(lambda match: self.ids.get(match[0], match[0]), text)

    def python(self, code):
        """Write the file, or run the code, and the tests in it."""
        if match := re.match(r"# (\w+\.py)\n", code):
            (self.where / match[1]).write_text(code)
            return
        if self.names is None:
            written = (self.where / "shop.py").exists()
            self.names = {**STAND_INS, **vars(import_module("shop"))} if written else {}
        before = set(self.names)
        with deferring():
            exec(self.here(code), self.names)
        for name in sorted(set(self.names) - before):
            if name.startswith("test_"):
                test = self.names[name]
                test(*[self.capsys for _ in inspect.signature(test).parameters])

    def console(self, text):
        for command, shown in COMMAND.findall(text):
            if GOES_ON.match(command):
                self.start(command, shown)
            else:
                self.compare(command, shown)

    def sh(self, text):
        """What installs something."""
        for command in text.splitlines():
            if command.startswith("pip install "):
                config = configparser.ConfigParser()
                config.read(HOME / "setup.cfg")
                (extras,) = re.findall(r"'wsgi-defer\[([\w,]+)\]'", command)
                assert set(extras.split(",")) <= {*config["options.extras_require"]}
            else:
                ours = command.replace("-g shop", f"-g {os.getgid()}")
                subprocess.run(shlex.split(self.here(ours)), check=True)

    def ini(self, text):
        """A service manager's file: its command is one of ours."""
        (command,) = re.findall(r"(?:ExecStart|command)=.*/python -m (.*)", text)
        options = parser().parse_args(command.split()[1:])
        assert (options.target, options.processes) == ("shop:jobs", 4)

    def start(self, command, shown):
        output = self.where / f"output{len(self.running)}"
        with output.open("w") as file:
            process = subprocess.Popen(
                shlex.split(self.here(command)), cwd=self.where, env=environ(),
                stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            )  # fmt: skip
        shown = [line for line in self.here(shown).splitlines() if line != "..."]
        self.running.append((process, output, shown))
        if "^C" in shown and self.stops_at_once:
            self.stop()

    def stop(self):
        """Press Ctrl-C when they have printed what the page shows, the last first."""
        for process, output, shown in reversed(self.running):
            end = shown.index("^C") if "^C" in shown else len(shown)
            wait_for(shown[:end], output)
            process.send_signal(signal.SIGINT)
            assert process.wait(OF_PROCESSES) == 0, output.read_text()
            wait_for([line for line in shown if line != "^C"], output)
        self.running.clear()

    def compare(self, command, shown):
        """Run it until it prints that: what it tells about may be under way."""
        printed = ""

        def prints_it():
            nonlocal printed
            printed = self.run(self.here(command))
            return same(printed).strip() == same(self.here(shown)).strip()

        until(prints_it, lambda: f"{command}\n{shown}\nis\n{printed}", OF_PROCESSES)
        self.ids.update(zip(ID.findall(shown), ID.findall(printed), strict=True))

    def run(self, command):
        """What it prints. Ours runs in this process, which is quicker."""
        if command.startswith(PROGRAM):
            self.capsys.readouterr()
            main(shlex.split(command.removeprefix(PROGRAM)))
            return self.capsys.readouterr().out
        return subprocess.run(shlex.split(command), cwd=self.where, env=environ(),
                              capture_output=True, text=True).stdout  # fmt: skip


def wait_for(shown, output):
    """Wait until it has printed these lines, and maybe others, in any order.

    Two jobs that run at the same time may end in another order than on the page.
    """

    def is_there():
        lines = [same(line) for line in output.read_text().splitlines()]
        return all(same(line) in lines for line in shown)

    until(is_there, lambda: f"{shown}\nin\n{output.read_text()}", OF_PROCESSES)


@pytest.fixture
def reader(tmp_path, monkeypatch, capsys):
    """Sits in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("shop", None)
    reader = Reader(tmp_path, capsys)
    yield reader
    for process, *_ in reader.running:
        process.kill()
        process.wait()
    if shop := sys.modules.pop("shop", None):
        shop.jobs.engine.close()


@with_sqlite
@pytest.mark.parametrize("page", PAGES)
def test_a_page(reader, page):
    """All its blocks run, in order."""
    try:
        reader.follow((FOLDER / page).read_text())
    except ImportError as error:
        if (error.name or "").partition(".")[0] in ("wsgi_defer", "shop"):
            raise
        pytest.skip(str(error))  # an engine that is not installed


@pytest.mark.parametrize("page", PAGES)
def test_links(page):
    """What a page links to is there."""
    for link in re.findall(r"\]\(([\w./-]+)", (FOLDER / page).read_text()):
        assert link.startswith("http") or (FOLDER / link).exists(), link


def test_no_page_is_forgotten():
    """The first one leads to all others."""
    links = re.findall(r"\]\((\w[\w-]*\.md)\)", (FOLDER / "index.md").read_text())
    assert set(links) == set(PAGES) - {"index.md"}
