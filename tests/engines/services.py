"""Queue servers for the tests: started on demand, on the loopback, and stopped by id.

Each has a free port and its own directory, and shares nothing with a server that the
machine may run. What is not installed is skipped by name; ``make services`` installs
it.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from glob import glob
from pathlib import Path

import pytest

from ..wire.servers import free_port

START = 120.0  # seconds that a server may take; RabbitMQ takes 5 to 15 here


def find(*names):
    """The path of a program. Skips the test if there is none."""
    for name in names:
        found = sorted(glob(name)) if "/" in name else [shutil.which(name)]
        if found and found[-1]:
            return found[-1]
    pytest.skip(f"{names[0]} is not installed; see make services")


class Service:
    """A server: its processes, and its directory, which goes with it."""

    user = None  # who runs it, if root may not
    host = "127.0.0.1"

    def __init__(self):
        self.root = Path(tempfile.mkdtemp(prefix="engine-"))
        self.port = free_port()
        self.processes = []
        try:
            self.prepare()
            self.start()
        except BaseException:
            self.close()
            raise

    @classmethod
    def skip_unless_installed(cls):
        """Skip the test by the name of the program."""
        raise NotImplementedError

    def prepare(self):
        """Do what is needed once, before it starts."""

    def run(self, command, env=None):
        """Start one of its processes."""
        with (self.root / "output").open("a") as output:
            process = subprocess.Popen(
                command, cwd=self.root, env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True, **self.as_user(),
            )  # fmt: skip
        self.processes.append(process)
        return process

    def options(self):
        """More options for its command line."""
        return []

    def as_user(self):
        """The options with which a subprocess runs as its user."""
        if self.user is None or os.getuid() != 0:
            return {}
        user = pwd.getpwnam(self.user)
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}

    def start(self):
        """Start it, and wait until it answers."""
        raise NotImplementedError

    def wait(self, answers):
        """Ask until it answers."""
        deadline = time.monotonic() + START
        while not answers():
            if self.processes[-1].poll() is not None or time.monotonic() > deadline:
                output = (self.root / "output").read_text(errors="replace")[-3000:]
                raise RuntimeError(f"{type(self).__name__} does not start:\n{output}")
            time.sleep(0.05)

    def replies(self, hello, reply, patience):
        """Whether its reply starts with that, within so many seconds."""
        try:
            with self.connect() as client:
                client.settimeout(patience)
                client.sendall(hello)
                return client.recv(len(reply)) == reply
        except OSError:
            return False

    def connect(self):
        """A connection to it."""
        return socket.create_connection((self.host, self.port), 1)

    def stop(self):
        """End its processes, the last first."""
        for process in reversed(self.processes):
            process.send_signal(self.ending)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.processes.clear()

    ending = signal.SIGTERM

    def close(self):
        """Stop it, and remove its directory."""
        self.stop()
        shutil.rmtree(self.root, ignore_errors=True)


class Redis(Service):
    """A redis-server that writes each change to its file, as one should for jobs."""

    @classmethod
    def skip_unless_installed(cls):
        find("redis-server")

    def start(self):
        self.run([
            find("redis-server"), "--port", str(self.port), "--bind", self.host,
            "--dir", str(self.root), "--appendonly", "yes", "--save", "",
            *self.options(),
        ])  # fmt: skip
        self.wait(self.answers)

    def answers(self):
        return self.replies(b"PING\r\n", b"+PONG\r\n", 1)

    @property
    def url(self):
        """What ``Jobs`` is given."""
        return f"redis://{self.host}:{self.port}/0"


class Postgres(Service):
    """A PostgreSQL cluster; ``database()`` makes databases in it."""

    user = "postgres"  # it refuses to run as root
    ending = signal.SIGINT  # TERM waits for the clients

    @classmethod
    def skip_unless_installed(cls):
        cls.bin()

    @staticmethod
    def bin():
        """The directory of its programs."""
        return Path(find("/usr/lib/postgresql/*/bin/postgres", "postgres")).parent

    def prepare(self):
        if os.getuid() == 0:
            shutil.chown(self.root, self.user)
        subprocess.run(
            [self.bin() / "initdb", "--pgdata", self.root / "data", "--username",
             "jobs", "--auth", "trust", "--no-sync", "--encoding", "UTF8"],
            check=True, cwd=self.root, stdout=subprocess.DEVNULL, **self.as_user(),
        )  # fmt: skip

    def start(self):
        self.run([
            self.bin() / "postgres", "-D", self.root / "data", "-p", str(self.port),
            "-c", f"listen_addresses={self.host}", "-c",
            f"unix_socket_directories={self.root}", "-c", "max_connections=200",
            *self.options(),
        ])  # fmt: skip
        self.wait(self.answers)

    def answers(self):
        command = [self.bin() / "pg_isready", "-h", self.host, "-p", str(self.port)]
        return subprocess.run(command, stdout=subprocess.DEVNULL).returncode == 0

    @property
    def url(self):
        return f"postgresql://jobs@{self.host}:{self.port}/postgres"

    def database(self, name):
        """The URL of the database of that name, which is made if there is none."""
        command = [self.bin() / "createdb", "-h", self.host, "-p", str(self.port),
                   "-U", "jobs", name]  # fmt: skip
        subprocess.run(command, capture_output=True)
        return f"postgresql://jobs@{self.host}:{self.port}/{name}"


class Rabbit(Service):
    """A RabbitMQ node with a port mapper of its own, both on the loopback only.

    Without one of its own, it would start an epmd that listens on all addresses and
    stays when the node is gone.
    """

    SCRIPTS = "/usr/lib/rabbitmq/bin/rabbitmq-server"  # Debian's wrapper changes user

    @classmethod
    def skip_unless_installed(cls):
        find(cls.SCRIPTS, "rabbitmq-server")
        find("epmd")

    def prepare(self):
        self.mapper = free_port()
        (self.root / "plugins").write_text("[].\n")
        (self.root / "rabbit.conf").write_text(
            f"{self.listener()}\n"
            "loopback_users = none\n"
            # It stops taking messages below this, and a test machine may be full.
            "disk_free_limit.absolute = 1MB\n"
        )
        for name in ("log", "mnesia"):
            (self.root / name).mkdir()

    def listener(self):
        """The lines of its configuration that say where it listens."""
        return f"listeners.tcp.1 = {self.host}:{self.port}"

    @property
    def env(self):
        """The environment of its programs."""
        return {
            "HOME": str(self.root),  # where its cookie is
            "ERL_EPMD_PORT": str(self.mapper),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"jobs{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_CONF_ENV_FILE": str(self.root / "none"),
            "RABBITMQ_CONFIG_FILE": str(self.root / "rabbit.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.root / "plugins"),
            "RABBITMQ_LOG_BASE": str(self.root / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_MNESIA_BASE": str(self.root / "mnesia"),
            "RABBITMQ_PID_FILE": str(self.root / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS":
                "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2 +sbwt none",
        }  # fmt: skip

    def start(self):
        self.run([find("epmd"), "-address", "127.0.0.1", "-port", str(self.mapper)])
        self.run([find(self.SCRIPTS, "rabbitmq-server")], self.env)
        self.wait(self.answers)

    def answers(self):
        """Whether it speaks AMQP: its port is open a moment before that."""
        return self.replies(b"AMQP\x00\x00\x09\x01", b"\x01", 2)

    @contextmanager
    def alarm(self):
        """Inside the block its disk is too full: it hands out messages, and takes none.

        This holds for all of its clients.
        """
        self.limit_disk("mem_relative", "1000")
        try:
            yield
        finally:
            self.limit_disk("1MB")

    def limit_disk(self, *limit):
        """Set how much has to be free."""
        command = [find("/usr/lib/rabbitmq/bin/rabbitmqctl", "rabbitmqctl"), "-n",
                   self.env["RABBITMQ_NODENAME"], "set_disk_free_limit"]  # fmt: skip
        # Not the port of the node, which runs.
        local = "-kernel inet_dist_use_interface {127,0,0,1}"
        env = {**os.environ, **self.env, "RABBITMQ_DIST_PORT": "",
               "RABBITMQ_CTL_ERL_ARGS": local}  # fmt: skip
        subprocess.run([*command, *limit], check=True, env=env, cwd=self.root,
                       stdout=subprocess.DEVNULL, **self.as_user())  # fmt: skip

    @property
    def url(self):
        return f"amqp://guest:guest@{self.host}:{self.port}//"


@contextmanager
def frozen(*pids):
    """Stop these processes inside the block. Those that have ended are left out."""
    some = []
    try:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                some.append(pid)
        yield
    finally:
        for pid in some:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@contextmanager
def silent():
    """A port that takes connections and never answers: a broker that hangs."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(50)
        yield listener.getsockname()[1]
