"""A process that ends with the one that has started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

CHILD = """\
import signal, sys, time
from wsgi_defer._runtime.parent import end_with
print(end_with(int(sys.argv[1]), signal.Signals(int(sys.argv[2]))), flush=True)
time.sleep(60)
"""
PARENT = """\
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid()), "9"],
                         stdout=subprocess.PIPE, stderr=sys.stdout)
sys.stdout.buffer.write(child.stdout.readline())
sys.stdout.flush()
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_parent_that_has_ended_before(number):
    """The process that is the parent now is another one."""
    command = [sys.executable, "-c", CHILD, str(os.getpid() + 1), str(int(number))]
    assert subprocess.run(command, timeout=30).returncode == -number


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel is to do it")
def test_a_parent_that_is_killed():
    """Its child is killed, too, and so its output ends."""
    command = [sys.executable, "-c", PARENT, CHILD]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=30)
    assert done.stdout == b"True\n"
