"""The first screen of the README, as a person types it in a clone."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ..helpers.programs import copy_tree
from ..helpers.waiting import OF_PROCESSES, until
from ..wire.servers import free_port
from .test_pages import HOME, block

COMMAND = re.compile(r"^\$ (.*)$", re.MULTILINE)
NO_INDEX = re.compile("No matching distribution|Could not fetch|connection broken")

pytestmark = pytest.mark.skipif(
    not (HOME / ".git").exists() or not shutil.which("curl"),
    reason="needs curl, and a clone",
)


def test_first_screen(tmp_path):
    """An environment, the package, gunicorn; curl has its answer, and then the mail."""
    copy_tree(tmp_path)
    (tmp_path / "app.py").write_text(block("README.md", "# app.py"))
    screen = (HOME / "README.md").read_text().partition("\n## ")[0]
    *install, serve, curl = COMMAND.findall(screen)
    port = str(free_port())
    env = {
        **os.environ,
        # Its "python3" is the one that runs this test, and its port is free.
        "PATH": f"{Path(sys._base_executable).parent}:{os.environ['PATH']}",
        "GUNICORN_CMD_ARGS": f"--bind 127.0.0.1:{port} --no-control-socket",
    }
    env.pop("PYTHONPATH", None)
    for command in install:
        done = subprocess.run(
            shlex.split(command), cwd=tmp_path, env=env, check=False, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300,
        )  # fmt: skip
        if NO_INDEX.search(done.stdout):
            pytest.skip("no index of packages can be reached")
        assert done.returncode == 0, done.stdout
    output = tmp_path / "terminal"
    with output.open("w") as terminal:
        server = subprocess.Popen(
            shlex.split(serve), cwd=tmp_path, env=env, stdout=terminal, stderr=terminal
        )
    try:
        answer = subprocess.run(
            shlex.split(curl.replace("8000", port)), capture_output=True, text=True,
            check=False, timeout=60,
        )  # fmt: skip
        assert answer.stdout == "thanks\n", answer.stderr + output.read_text()
        until(
            lambda: "mail sent to ada@example.org" in output.read_text(),
            "the mail", OF_PROCESSES,
        )  # fmt: skip
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)
