"""How each server is started, on a free port of the loopback, and stopped by its id.

``SETUPS`` has all of them by name: a server, the way it is run, and what stands in
front of it. What is not installed is skipped by name; ``make services`` installs all.
"""

from __future__ import annotations

import importlib.util
import os
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import trustme

HOME = Path(__file__).parent.parent.parent
GUNICORNS = HOME / ".gunicorns"  # older releases, see the Makefile
FILE = b"0123456789abcdef" * 20_000  # what the app's file has
START = 90.0  # seconds that a server may take; a busy machine starts many at a time
PORTS = range(20_000, 32_000)  # below those that the kernel gives away
GIVEN = set()  # those of us that others have


@dataclass
class Server:
    """A running set-up and the directory that its app shares with the tests."""

    # Not in pytest's own: the path of a socket has 107 bytes at most, and Apache's
    # processes are another user's when root starts it.
    root: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="wire-")))
    address: tuple | str = ""
    tls: ssl.SSLContext | None = None
    processes: list[subprocess.Popen] = field(default_factory=list)

    def __post_init__(self):
        self.root.chmod(0o777)
        (self.root / "file").write_bytes(FILE)
        self.output = self.root / "output"

    def run(self, command, announcement=None, env=None, cwd=HOME):
        """Run it until its output says where it listens, or until a client gets in."""
        env = {**os.environ, "WIRE_ROOT": str(self.root), "PYTHONUNBUFFERED": "1",
               "PYTHONPATH": str(HOME), **(env or {})}  # fmt: skip
        before = self.output.stat().st_size if self.output.exists() else 0
        with self.output.open("a") as output:
            process = subprocess.Popen(
                command, cwd=cwd, env=env, stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        deadline = time.monotonic() + START
        while time.monotonic() < deadline and process.poll() is None:
            said = self.output.read_text(errors="replace")[before:]
            if announcement is None:
                if self.accepts():
                    return None
            elif found := re.search(announcement, said):
                return found
            time.sleep(0.02)
        raise RuntimeError(
            f"{command} did not start:\n{self.output.read_text(errors='replace')}"
        )

    def accepts(self):
        """Whether somebody listens at our address."""
        try:
            socket.create_connection(self.address, timeout=1).close()
        except OSError:
            return False
        return True

    def listens_at(self, where):
        """Take the address from what the server said."""
        if where.startswith("unix:"):
            self.address = where.removeprefix("unix:")
        else:
            host, _, port = where.rpartition("/")[2].rpartition(":")
            self.address = (host, int(port))

    @property
    def url(self):
        """The address as an upstream of nginx."""
        if isinstance(self.address, str):
            return f"unix:{self.address}"
        return "{}:{}".format(*self.address)

    def stop(self):
        """Stop what was started, the front first, and take the directory away."""
        for process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in reversed(self.processes):
            try:
                process.wait(8)
            except subprocess.TimeoutExpired:
                # Its own session, so these are its workers and nobody else's.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        shutil.rmtree(self.root, ignore_errors=True)


def free_port():
    """A port that nobody had a moment ago, for servers that do not tell theirs.

    None that the kernel might give to somebody else until it is bound, or to whoever
    tries to connect to it, who would then have connected to himself.
    """
    while True:
        port = random.choice(PORTS)
        with socket.socket() as sock:
            # As servers do: connections that have ended are in nobody's way.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in GIVEN:
            GIVEN.add(port)
            return port


def make_tls(root, protocols=()):
    """A certificate of its own for the server, and a context that trusts it."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(root / "key.pem")
    with (root / "cert.pem").open("wb") as file:
        for pem in certificate.cert_chain_pems:
            file.write(pem.bytes())
    (root / "ca.pem").write_bytes(authority.cert_pem.bytes())
    context = ssl.create_default_context(cafile=str(root / "ca.pem"))
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context, ["--keyfile", f"{root}/key.pem", "--certfile", f"{root}/cert.pem"]


CONCURRENCY = {
    "sync": ["--workers", "2"],
    "gthread": ["--workers", "1", "--threads", "4"],
    "gevent": ["--workers", "1"],
}
OURS = {
    "sync": "wsgi_defer.gunicorn.SyncWorker",
    "gthread": "wsgi_defer.gunicorn.ThreadWorker",
    "gevent": "wsgi_defer.gunicorn.GeventWorker",
}


def gunicorn(server, worker="sync", *, version=None, ours=False, over="tcp", options=(),
             app="tests.wire.app:app"):  # fmt: skip
    """gunicorn, of the installed release or another one, its worker class or ours."""
    options = [*CONCURRENCY[worker], *options]
    bind = "127.0.0.1:0"
    if over == "unix":
        bind = f"unix:{server.root}/socket"
    elif over == "tls":
        server.tls, more = make_tls(server.root)
        options += more
    elif over == "h2":
        server.tls, more = make_tls(server.root, ["h2"])
        options += [*more, "--http-protocols", "h2,h1"]
    path = str(HOME)
    if version is not None:
        path = f"{GUNICORNS / version}{os.pathsep}{path}"
    if version is None or int(version.split(".")[0]) >= 25:
        # The control socket of newer releases has one path for all on a machine.
        options.append("--no-control-socket")
    command = [
        sys.executable, "-W", "ignore", "-m", "gunicorn",  # 20.1: pkg_resources
        "--config", "python:tests.wire.plain",  # not the ./gunicorn.conf.py
        "--bind", bind, "--worker-class", OURS[worker] if ours else worker,
        "--keep-alive", "10", "--graceful-timeout", "2",
        "--timeout", "240",  # more than a call waits at its gate
        *options, app,
    ]  # fmt: skip
    found = server.run(command, r"Listening at: (\S+)\s", {"PYTHONPATH": path})
    server.listens_at(found.group(1))


def in_python(server, name):
    """A server that a few lines of Python start, see run.py."""
    found = server.run(
        [sys.executable, "-m", "tests.wire.run", name], r"Listening at: (\S+)\s"
    )
    server.listens_at(found.group(1))


def uwsgi(server, listener="--http-socket", app=("--module", "tests.wire.app:app"),
          options=()):  # fmt: skip
    """uWSGI: two processes, of one thread each unless the options say otherwise."""
    # A router of its own in front: it does not tell a port that the system chose.
    port = free_port() if listener == "--http" else 0
    found = server.run(
        [Path(sys.executable).with_name("uwsgi"), listener, f"127.0.0.1:{port}",
         "--virtualenv", sys.prefix, "--pythonpath", HOME, *app, "--need-app",
         "--master", "--die-on-term", "--processes", "2", "--worker-reload-mercy", "3",
         *options],
        r"bound (?:to TCP address|on) (\S+)\s[\s\S]*spawned uWSGI worker 2",
    )  # fmt: skip
    server.listens_at(found.group(1))


def granian(server):
    """granian: two processes with four threads each."""
    server.address = ("127.0.0.1", free_port())
    server.run(
        [sys.executable, "-m", "granian", "--interface", "wsgi", "--workers", "2",
         "--blocking-threads", "4", "--port", str(server.address[1]),
         "tests.wire.app:app"],
    )  # fmt: skip


def mod_wsgi(server, mode):
    """Debian's Apache and its mod_wsgi, which runs Debian's Python.

    Root's Apache serves as another user, so it gets a copy of the code to read.
    """
    code, modules = server.root / "code", "/usr/lib/apache2/modules"
    for package in ("wsgi_defer", "tests/wire"):
        shutil.copytree(HOME / package, code / package)
    (code / "tests" / "__init__.py").touch()
    server.address = ("127.0.0.1", free_port())
    as_root = "User www-data\nGroup www-data" if os.getuid() == 0 else ""
    how = f"WSGIPythonPath {code}"
    if mode == "daemon":
        how = (
            f"WSGIDaemonProcess wire processes=2 threads=4 python-path={code}\n"
            f"WSGIProcessGroup wire\nWSGISocketPrefix {server.root}/wsgi"
        )
    config = server.root / "apache.conf"
    config.write_text(f"""
        LoadModule mpm_event_module {modules}/mod_mpm_event.so
        LoadModule authz_core_module {modules}/mod_authz_core.so
        LoadModule wsgi_module {modules}/mod_wsgi.so
        ServerName localhost
        ServerRoot {server.root}
        DefaultRuntimeDir {server.root}
        PidFile {server.root}/apache.pid
        ErrorLog {server.root}/output
        Listen 127.0.0.1:{server.address[1]}
        {as_root}
        StartServers 2
        MinSpareThreads 1
        MaxSpareThreads 16
        ThreadsPerChild 8
        MaxRequestWorkers 16
        WSGIPythonHome /usr
        {how}
        WSGIApplicationGroup %{{GLOBAL}}
        WSGIScriptAlias / {code}/tests/wire/app.py
        WSGICallableObject app
        <Location />
            Require all granted
        </Location>
    """)
    server.run(["apache2", "-f", config, "-D", "FOREGROUND"], cwd="/")


def behind_nginx(server, behind, *directives):
    """nginx in front of what ``behind`` starts."""
    behind(server)
    upstream, server.address = server.url, ("127.0.0.1", free_port())
    temporary = "\n".join(
        f"{kind}_temp_path {server.root}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = server.root / "nginx.conf"
    config.write_text(f"""
        {"user root;" if os.getuid() == 0 else ""}
        daemon off;
        worker_processes 1;
        pid {server.root}/nginx.pid;
        error_log stderr;
        events {{ worker_connections 256; }}
        http {{
            access_log off;
            {temporary}
            upstream app {{ server {upstream}; keepalive 4; }}
            server {{
                listen 127.0.0.1:{server.address[1]};
                location / {{ {" ".join(directives)} }}
            }}
        }}
    """)
    server.run(["nginx", "-e", "stderr", "-c", config, "-p", server.root])


def nginx(behind, version="1.0", *, buffering=True):
    """A start function: nginx speaks that HTTP version to the server behind it."""
    directives = [
        "proxy_pass http://app;",
        f"proxy_http_version {version};",
        f"proxy_buffering {'on' if buffering else 'off'};",
    ]
    if version == "1.1":
        directives.append('proxy_set_header Connection "";')
    return partial(_nginx, behind=behind, directives=directives)


def _nginx(server, behind, directives):
    behind_nginx(server, behind, *directives)


def start_uwsgi_pass(server):
    """nginx, which speaks uWSGI's own protocol."""
    directives = ("uwsgi_pass app;", "include /etc/nginx/uwsgi_params;")
    behind_nginx(server, partial(uwsgi, listener="--socket"), *directives)


# HTTP/1.0; HTTP/1.1 with "Connection: close"; HTTP/1.1 with a second request on the
# same connection.
ALL = ("1.0", "close", "keep")
NO_WRITE = "it has no write(): its start_response returns None"


@dataclass
class Setup:
    """How a set-up starts, what must be installed, and what it cannot do at all."""

    start: Callable[[Server], None]
    needs: tuple[str, ...] = ()  # modules, programs and directories
    protocols: tuple[str, ...] = ALL
    absent: dict[str, str] = field(default_factory=dict)  # shapes, with the reason
    sendfile: str = ""  # "python": through socket.sendfile(); "c": nobody reads
    ours: bool = False  # our worker class runs the calls

    def missing(self):
        """What is not installed, or None."""
        for need in self.needs:
            if need.startswith("."):
                there = (HOME / need).exists()
            elif need.startswith("/"):
                there = Path(need).exists()
            elif need.startswith("bin:"):
                name = need.removeprefix("bin:")
                there = (
                    shutil.which(name) or Path(sys.executable).with_name(name).exists()
                )
            else:
                there = importlib.util.find_spec(need)
            if not there:
                return need
        return None


def gunicorns():
    """gunicorn's set-ups: releases, worker classes, its own and ours."""
    for version in (None, "25.3.0", "23.0.0", "22.0.0", "21.2.0", "20.1.0"):
        for worker in ("sync", "gthread", "gevent"):
            for over in ("tcp", "tls", "unix", "h2"):
                if over != "tcp" and version is not None:
                    continue
                if over == "h2" and worker != "gthread":
                    continue
                for ours in (False, True):
                    number = f"-{version.split('.')[0]}" if version else ""
                    name = f"gunicorn{number}-{worker}"
                    name += "" if over == "tcp" else f"-{over}"
                    name += "-ours" if ours else ""
                    needs = []
                    if version:
                        needs.append(f".gunicorns/{version}/gunicorn")
                    if worker == "gevent":
                        needs.append("gevent")
                    if over == "h2":
                        needs.append("h2")
                    if ours:
                        needs.append("wsgi_defer.gunicorn")
                    plain = over in ("tcp", "unix") and worker != "gevent"
                    yield name, Setup(
                        partial(gunicorn, worker=worker, version=version, ours=ours,
                                over=over),
                        tuple(needs),
                        ("h2",) if over == "h2" else ALL,
                        sendfile="python" if plain else "",
                        ours=ours,
                    )  # fmt: skip


MOD_WSGI = ("bin:apache2", "/usr/lib/apache2/modules/mod_wsgi.so")
SYNC = partial(gunicorn, worker="sync")
UNIX = partial(gunicorn, worker="sync", over="unix")
GTHREAD = partial(gunicorn, worker="gthread")
GEVENT = partial(gunicorn, worker="gevent")

SETUPS = {
    **dict(gunicorns()),
    "nginx-1.0-sync": Setup(nginx(SYNC), ("bin:nginx",)),
    "nginx-1.0-sync-unix": Setup(nginx(UNIX), ("bin:nginx",)),
    "nginx-1.0-sync-unbuffered": Setup(nginx(SYNC, buffering=False), ("bin:nginx",)),
    "nginx-1.1-sync": Setup(nginx(SYNC, "1.1"), ("bin:nginx",)),
    "nginx-1.1-sync-unbuffered": Setup(
        nginx(SYNC, "1.1", buffering=False), ("bin:nginx",)
    ),
    "nginx-1.0-gthread": Setup(nginx(GTHREAD), ("bin:nginx",)),
    "nginx-1.1-gthread": Setup(nginx(GTHREAD, "1.1"), ("bin:nginx",)),
    "nginx-1.0-gthread-ours": Setup(
        nginx(partial(GTHREAD, ours=True)),
        ("bin:nginx", "wsgi_defer.gunicorn"),
        ours=True,
    ),
    "nginx-1.1-gthread-ours": Setup(
        nginx(partial(GTHREAD, ours=True), "1.1"),
        ("bin:nginx", "wsgi_defer.gunicorn"),
        ours=True,
    ),
    "nginx-1.0-gevent": Setup(nginx(GEVENT), ("bin:nginx", "gevent")),
    "nginx-1.1-gevent": Setup(nginx(GEVENT, "1.1"), ("bin:nginx", "gevent")),
    "nginx-1.1-gevent-ours": Setup(
        nginx(partial(GEVENT, ours=True), "1.1"),
        ("bin:nginx", "gevent", "wsgi_defer.gunicorn"),
        ours=True,
    ),
    "uwsgi-http": Setup(uwsgi, ("bin:uwsgi",), sendfile="c"),
    "uwsgi-http11": Setup(
        partial(uwsgi, listener="--http11-socket"), ("bin:uwsgi",), sendfile="c"
    ),
    "uwsgi-threads": Setup(
        partial(uwsgi, options=["--enable-threads", "--threads", "2"]),
        ("bin:uwsgi",),
        sendfile="c",
    ),
    "uwsgi-mount": Setup(
        partial(uwsgi, app=["--mount", "/=tests.wire.app:app"]),
        ("bin:uwsgi",),
        sendfile="c",
    ),
    "uwsgi-router": Setup(
        partial(uwsgi, listener="--http"), ("bin:uwsgi",), sendfile="c"
    ),
    "uwsgi-router-keepalive": Setup(
        partial(uwsgi, listener="--http", options=["--http-keepalive"]),
        ("bin:uwsgi",),
        sendfile="c",
    ),
    "nginx-uwsgi": Setup(start_uwsgi_pass, ("bin:uwsgi", "bin:nginx"), sendfile="c"),
    "werkzeug": Setup(partial(in_python, name="werkzeug"), ("werkzeug",)),
    "werkzeug-threaded": Setup(
        partial(in_python, name="werkzeug_threaded"), ("werkzeug",)
    ),
    "wsgiref": Setup(partial(in_python, name="wsgiref")),
    "waitress": Setup(partial(in_python, name="waitress"), ("waitress",)),
    "cheroot": Setup(partial(in_python, name="cheroot"), ("cheroot",)),
    "gevent-pywsgi": Setup(partial(in_python, name="pywsgi"), ("gevent",)),
    "bjoern": Setup(
        partial(in_python, name="bjoern"),
        ("bjoern",),
        absent={"write": NO_WRITE},
        sendfile="c",
    ),
    "granian": Setup(granian, ("granian",), absent={"write": NO_WRITE}),
    "a2wsgi-uvicorn": Setup(partial(in_python, name="uvicorn"), ("a2wsgi", "uvicorn")),
    "mod_wsgi-daemon": Setup(partial(mod_wsgi, mode="daemon"), MOD_WSGI, sendfile="c"),
    "mod_wsgi-embedded": Setup(
        partial(mod_wsgi, mode="embedded"), MOD_WSGI, sendfile="c"
    ),
}


@contextmanager
def running_or_skipped(name):
    """For a fixture: the set-up of that name, or a skip that says what is missing."""
    if missing := SETUPS[name].missing():
        pytest.skip(f"{name}: {missing} is not installed: make services")
    with running(name) as server:
        yield server


@contextmanager
def running(name):
    """The set-up of that name, for as long as the block runs."""
    server = Server()
    server.setup, server.name = SETUPS[name], name
    try:
        server.setup.start(server)
        yield server
    finally:
        server.stop()
