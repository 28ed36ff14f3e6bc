"""Another machine: a network namespace, with one cable to this one."""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from ..engines.services import Postgres, Rabbit, find

CLONE_NEWNET = 0x40000000
NET = f"10.77.{os.getpid() % 256}"
HERE, THERE = f"{NET}.1", f"{NET}.2"


class Machine:
    """Reaches this one at ``HERE``, until its network is cut."""

    def __init__(self):
        self.name = f"wsgi_defer_{os.getpid()}"
        self.near, self.far = f"wd{os.getpid()}n", f"wd{os.getpid()}f"
        self.ip = find("ip", "/usr/sbin/ip")
        try:
            self.run("netns", "add", self.name)
        except subprocess.CalledProcessError:
            pytest.skip("only root makes network namespaces, and not everywhere")
        self.run("link", "add", self.near, "type", "veth",
                 "peer", "name", self.far, "netns", self.name)  # fmt: skip
        self.run("address", "add", f"{HERE}/30", "dev", self.near)
        self.run("link", "set", self.near, "up")
        self.run("-n", self.name, "address", "add", f"{THERE}/30", "dev", self.far)
        self.run("-n", self.name, "link", "set", self.far, "up")
        self.run("-n", self.name, "link", "set", "lo", "up")

    def run(self, *words):
        subprocess.run([self.ip, *words], check=True, capture_output=True)

    def call(self, function, *args):
        """Call that in a thread on it. A process that this starts is on it, too."""

        def there():
            with open(f"/run/netns/{self.name}") as file:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(file.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            return function(*args)

        assert threading.main_thread() is threading.current_thread()
        with ThreadPoolExecutor(1) as executor:
            return executor.submit(there).result()

    def vanish(self):
        """Cut its cable: nothing that it sends, not even its end, comes here."""
        self.run("-n", self.name, "link", "set", self.far, "down")

    def close(self):
        for words in (("link", "delete", self.near), ("netns", "delete", self.name)):
            with suppress(subprocess.CalledProcessError):
                self.run(*words)


class NetPostgres(Postgres):
    host = HERE

    def prepare(self):
        super().prepare()
        with (self.root / "data" / "pg_hba.conf").open("a") as rules:
            rules.write(f"host all all {NET}.0/24 trust\n")


class NetRabbit(Rabbit):
    host = HERE
