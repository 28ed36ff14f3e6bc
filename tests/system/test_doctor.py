"""``python -m wsgi_defer doctor``: behind nginx and haproxy, right and wrong."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from wsgi_defer.doctor._command import main, show
from wsgi_defer.doctor._deployment import PROTOCOLS, Deployment
from wsgi_defer.doctor._exam import SHAPES, Line, examine

from ..helpers.doctor_site import TOKEN
from ..helpers.programs import HOME
from ..wire import servers

NEEDS = "bin:nginx", "bin:haproxy", "h2"
APP = "tests.helpers.doctor_site:app"
HOOKS = ["--config", "python:tests.helpers.hooks_config"]
PATIENCE = 30.0
SOON = 1.5  # seconds, where a fault is that something does not come
SECONDS = 0.2
BRIEF = ("length", "stream")
# Where, and what is wrong there: the first words of each line that says so.
SETUPS = {
    "nginx-h2-gthread": ("gthread", "h2", "right", {}),
    "haproxy-sync": ("sync", "haproxy", "right", {}),
    "no-middleware": ("sync", "haproxy", "bare", {"DeferMiddleware is not": "DeferM"}),
    "inline-on-gthread": ("gthread", "nginx", "inline", {
        "HTTP/1.1, with a length, without a length: the next request": "inline=True",
        "another user's request waited": "inline=True",
    }),
    "buffering-off": ("sync", "unbuffered", "right", {"a slow client": "proxy_buffer"}),
    "one-worker-no-hooks": ("one", "haproxy", "right", {
        "HTTP/1.1, with a length, without a length: the next request": "more workers",
        "another user's request waited": "more workers",
        "after TERM: calls": "install(globals())",
    }),
    "collecting": ("sync", "haproxy", "collecting", {
        "HTTP/1.0, with a length, without a length: the resp": "outermost",
        "HTTP/1.1, with a length, without a length: the resp": "outermost",
    }),
    "unclosed": ("sync", "haproxy", "unclosed", {"3 responses came": "outermost"}),
}  # fmt: skip


def start(stack):
    """Three gunicorns, an nginx and a haproxy in front of them; their addresses."""
    kinds = {
        "sync": {"worker": "sync", "options": HOOKS},
        "gthread": {"worker": "gthread", "options": HOOKS},
        "one": {"worker": "sync", "options": ["--workers", "1"]},
    }
    behind, urls = {}, {}
    for name, how in kinds.items():
        behind[name] = server = servers.Server()
        stack.callback(server.stop)
        servers.gunicorn(server, app=APP, **how)
    front = servers.Server()
    stack.callback(front.stop)
    trust, _ = servers.make_tls(front.root)
    ports = {name: servers.free_port() for name in ("h2", "nginx", "unbuffered")}
    lines = []
    for name, port in ports.items():
        upstream = "sync" if name == "unbuffered" else "gthread"
        lines.append(f"""
            upstream {name} {{ server {behind[upstream].url}; keepalive 4; }}
            server {{
                listen 127.0.0.1:{port}{" ssl http2" if name == "h2" else ""};
                location / {{
                    proxy_pass http://{name};
                    proxy_http_version 1.1;
                    proxy_set_header Connection "";
                    proxy_buffering {"off" if name == "unbuffered" else "on"};
                }}
            }}""")
        scheme = "https" if name == "h2" else "http"
        urls[name] = f"{scheme}://127.0.0.1:{port}"
    temporary = "\n".join(
        f"{kind}_temp_path {front.root}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (front.root / "nginx.conf").write_text(f"""
        {"user root;" if os.getuid() == 0 else ""}
        daemon off;
        pid {front.root}/nginx.pid;
        error_log stderr;
        events {{ worker_connections 256; }}
        http {{
            access_log off;
            {temporary}
            ssl_certificate {front.root}/cert.pem;
            ssl_certificate_key {front.root}/key.pem;
            {"".join(lines)}
        }}
    """)
    front.address = ("127.0.0.1", ports["nginx"])
    config = front.root / "nginx.conf"
    front.run(["nginx", "-e", "stderr", "-c", config, "-p", front.root])
    config = front.root / "haproxy.cfg"
    text = "defaults\n mode http\n timeout connect 30s\n timeout client 60s\n"
    text += " timeout server 60s\n"
    for name in ("sync", "one"):
        port = servers.free_port()
        urls[name] = f"http://127.0.0.1:{port}"
        text += f"listen {name}\n bind 127.0.0.1:{port}\n"
        text += f" server app {behind[name].url}\n"
    config.write_text(text)
    front.address = ("127.0.0.1", port)
    front.run(["haproxy", "-db", "-f", config])
    return SimpleNamespace(urls=urls, trust=trust, root=front.root)


def run(site, name):
    """Examine one set-up."""
    kind, proxy, path, wrong = SETUPS[name]
    url = f"{site.urls[kind if proxy == 'haproxy' else proxy]}/{path}"
    slow = name == "buffering-off"
    return list(
        examine(
            Deployment(url, TOKEN, site.trust, SOON if slow else PATIENCE),
            SECONDS,
            shapes=() if slow else BRIEF if wrong else tuple(SHAPES),
            protocols=("1.1",) if wrong and name != "collecting" else PROTOCOLS,
            also_stop=not wrong or kind == "one",
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def site():
    """The processes that all tests share."""
    for need in NEEDS:
        if servers.Setup(None, (need,)).missing():
            pytest.skip(f"{need} is not installed: make services")
    with ExitStack() as stack:
        yield start(stack)


@pytest.fixture(scope="module")
def results(site):
    """What the doctor says. Of one gunicorn, one set-up after the other."""

    def run_all(kind):
        return {name: run(site, name) for name in SETUPS if SETUPS[name][0] == kind}

    with ThreadPoolExecutor(3) as pool:
        found = {}
        for each in pool.map(run_all, ("sync", "gthread", "one")):
            found |= each
        return found


@pytest.mark.parametrize("name", SETUPS)
def test_a_set_up(results, name):
    """What is wrong is found, with what to change; and nothing else is."""
    wrong = SETUPS[name][3]
    lines = [line for line in results[name] if line.ok is False]
    assert len(lines) == len(wrong), lines
    for line, (begin, change) in zip(lines, wrong.items(), strict=True):
        assert line.text.startswith(begin)
        assert change in line.change


def test_what_was_tried(results):
    """All, through nginx with TLS; haproxy has no HTTP/2 without it."""
    tried = [line.text for line in results["nginx-h2-gthread"] if line.ok]
    shapes = "with a length, without a length, HEAD, 204, a file: all there"
    for protocol in ("1.0", "1.1", "2"):
        assert any(text.startswith(f"HTTP/{protocol}, {shapes}") for text in tried)
    assert sum(text.startswith("after TERM") for text in tried) == 2
    assert any(text.startswith("a slow client") for text in tried)
    left = [line.text for line in results["haproxy-sync"] if line.ok is None]
    assert left[0] == "HTTP/2: not tried; it needs https"


def test_the_command(site, capsys, monkeypatch):
    """The token is in a file; certificates are verified; the status tells."""
    token = site.root / "token"
    token.write_text(f"{TOKEN}\n")
    line = [sys.executable, "-m", "wsgi_defer", "doctor", "--token-file", str(token)]
    line += ["--seconds", str(SECONDS)]
    done = subprocess.run(
        [*line, f"{site.urls['sync']}/bare"], capture_output=True, text=True, cwd=HOME
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("WRONG  DeferMiddleware is not around the app")
    url = f"{site.urls['h2']}/right"
    assert main([url, "--token", TOKEN]) == 2
    assert "certificate" in capsys.readouterr().err
    bare = ["--token", TOKEN, f"{site.urls['h2']}/bare"]
    assert main([*bare, "--insecure"]) == 1
    assert main([*bare, "--cafile", str(site.root / "ca.pem")]) == 1
    capsys.readouterr()
    monkeypatch.setattr("sys.stdin", io.StringIO("another-token-that-is-wrong"))
    assert main([f"{site.urls['sync']}/right", "--token-file", "-"]) == 2
    assert "the token was refused" in capsys.readouterr().err


class Terminal(io.StringIO):
    """A file that says that it is a terminal."""

    def isatty(self):
        """It does."""
        return True


def test_colours(monkeypatch):
    """For terminals, beside the words, unless NO_COLOR is set."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    show(Line(False, "broken\x1b[2J", "mend it"), terminal := Terminal())
    assert terminal.getvalue() == (
        "\x1b[31mWRONG\x1b[0m  broken\\x1b[2J\n       change: mend it\n"
    )
    show(Line(True, "well"), file := io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    show(Line(True, "well"), terminal := Terminal())
    assert file.getvalue() == terminal.getvalue() == "ok     well\n"
