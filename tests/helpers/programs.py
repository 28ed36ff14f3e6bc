"""Programs that tests run, and the processes that there are."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

from .waiting import OF_PROCESSES

HOME = str(Path(__file__).parents[2])
PYTHON = [sys.executable, "-I", "-S", "-c"]


def installed(folder):
    """A directory for PYTHONPATH that tells of the entry points in setup.cfg, as an
    installer would."""
    setup = configparser.ConfigParser()
    setup.read(Path(HOME, "setup.cfg"))
    about = folder / "site" / "wsgi_defer-1.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: wsgi-defer\nVersion: 1\n"
    )
    points = setup["options.entry_points"]
    text = "\n".join(f"[{group}]{points[group]}" for group in points)
    (about / "entry_points.txt").write_text(text)
    return str(about.parent)


def tracked_files():
    """The names of the files of this tree that git has, and that are there."""
    names = subprocess.run(
        ["git", "ls-files"], cwd=HOME, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return [name for name in names if Path(HOME, name).exists()]


def copy_tree(where):
    """Copy these files into a folder."""
    for name in tracked_files():
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(HOME, name), where / name)


def run(code, warnings="error"):
    """Run a program of its own, which exits in time; return what it printed."""
    with tempfile.NamedTemporaryFile() as over:
        # When it comes to its end: to begin may take long on a busy machine.
        last = f"""
from pathlib import Path; from time import monotonic
Path({over.name!r}).write_text(str(monotonic()))
"""
        result = subprocess.run(
            [sys.executable, "-W", warnings, "-c", textwrap.dedent(code) + last],
            cwd=HOME, capture_output=True, text=True, timeout=OF_PROCESSES, check=True,
        )  # fmt: skip
        assert time.monotonic() - float(over.read()) < 15  # EXIT_WAIT is 20
    return result


def run_program(tmp_path, program, *args):
    """Run that file, with nothing but this package beside it."""
    (tmp_path / "program.py").write_text(program)
    (tmp_path / "tmp").mkdir()
    path = os.pathsep.join([str(tmp_path), HOME])
    # No pipe, which its children would hold open.
    with (tmp_path / "output").open("w+") as output:
        status = subprocess.run(
            [sys.executable, "-W", "error", str(tmp_path / "program.py"), *args],
            env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(tmp_path / "tmp")},
            stdout=output, stderr=output, timeout=OF_PROCESSES, check=False,
        )  # fmt: skip
        output.seek(0)
        return status.returncode, output.read()


def program_output(tmp_path, program):
    """The lines that such a file prints."""
    status, output = run_program(tmp_path, textwrap.dedent(program))
    assert status == 0, output
    return output.splitlines()


def is_alive(pid):
    """Whether it is there, or is a zombie that nobody has waited for."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def is_running(pid):
    """Whether it is there, and no zombie: of an init that never waits, it stays one."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def children(of=None):
    """The ids of its children, or of ours, zombies included."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as file:
                parent = file.read().rpartition(")")[2].split()[1]
        except OSError:
            continue
        if int(parent) == (of or os.getpid()):
            found.add(int(pid))
    return found


def descriptors():
    """Our open descriptors."""
    return set(os.listdir("/proc/self/fd"))
