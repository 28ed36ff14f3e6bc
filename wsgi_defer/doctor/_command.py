"""``python -m wsgi_defer doctor URL``."""

from __future__ import annotations

import argparse
import os
import ssl
import sys
from pathlib import Path
from typing import TextIO

from .._runtime.report import printable
from ._app import check_token
from ._deployment import Deployment, NoDoctorError
from ._exam import Line, examine

COLOURS = {True: "\x1b[32m", False: "\x1b[31m", None: ""}
WORDS = {True: "ok", False: "WRONG", None: "--"}


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(
        prog="python -m wsgi_defer doctor",
        description="Examine a deployment from outside, through its proxies: does "
        "anybody wait for deferred calls? The app has to mount "
        "wsgi_defer.doctor.doctor_app(token=...). Exit status: 0 if all is well, 1 if "
        "something is wrong, 2 if it could not be examined.",
    )
    made.add_argument("url", help="where doctor_app is: https://example.com/doctor")
    token = made.add_mutually_exclusive_group(required=True)
    token.add_argument(
        "--token-file", metavar="FILE", help="has the token; - for standard input"
    )
    token.add_argument(
        "--token", help="the token itself, which other users of this machine can see"
    )
    made.add_argument(
        "--seconds", type=float, default=1.0,
        help="that a call takes; more than a round trip; 1 by default",
    )  # fmt: skip
    made.add_argument(
        "--patience", type=float, default=30.0, metavar="SECONDS",
        help="for what should come; 30 by default",
    )  # fmt: skip
    made.add_argument(
        "--cafile", help="trust the certificates of this file, in PEM, too"
    )
    made.add_argument("--insecure", action="store_true", help="trust any certificate")
    made.add_argument(
        "--also-stop", action="store_true",
        help="send TERM to one of gunicorn's workers, if doctor_app(may_stop=True)",
    )  # fmt: skip
    return made


def main(argv: list[str]) -> int:
    """Returns the exit status."""
    options = parser().parse_args(argv)
    wrong = False
    try:
        token = check_token(options.token or _read(options.token_file))
        to = Deployment(
            options.url, token, _trust(options.cafile, options.insecure),
            options.patience,
        )  # fmt: skip
        for line in examine(to, options.seconds, also_stop=options.also_stop):
            wrong = wrong or line.ok is False
            show(line, sys.stdout)
    except (NoDoctorError, ValueError, OSError) as error:
        print(f"{options.url}: {printable(error)}", file=sys.stderr)
        return 2
    return 1 if wrong else 0


def show(line: Line, out: TextIO) -> None:
    """One line, and what to change below it. Colours are for terminals."""
    word = f"{WORDS[line.ok]:5}"
    if out.isatty() and not os.environ.get("NO_COLOR"):
        word = f"{COLOURS[line.ok]}{word}\x1b[0m"
    print(f"{word}  {printable(line.text)}", file=out, flush=True)
    if line.change:
        print(f"       change: {printable(line.change)}", file=out, flush=True)


def _read(path: str) -> str:
    text = sys.stdin.read() if path == "-" else Path(path).read_text()
    return text.strip()


def _trust(cafile: str | None, insecure: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if cafile:
        context.load_verify_locations(cafile)
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
