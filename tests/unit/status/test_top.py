"""The page in a terminal."""

from __future__ import annotations

import json
import os

import pytest

from wsgi_defer.__main__ import main
from wsgi_defer.status import StatusPage, _top
from wsgi_defer.status._json import to_json
from wsgi_defer.status._source import Source, SourceError

from .fakes import NASTY, FakeJobs, ask, calls, failure, figures, worker

SIZE = os.terminal_size((60, 12))


def told(**more):
    """What the page answers to ?format=json."""
    return json.loads(json.dumps(to_json(figures(**more), None)))


@pytest.fixture
def answers(monkeypatch):
    """What the page answers, one after the other; an error is raised."""
    waiting = []

    def read(self):
        answer = waiting.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr(Source, "read", read)
    monkeypatch.setattr(_top, "EACH", 0)
    return waiting


def test_once(answers, capsys):
    """One plain print where nobody looks at a terminal."""
    answers.append(told())
    assert main(["top", "http://127.0.0.1:8000/status"]) == 0
    text = capsys.readouterr().out
    words = " ".join(text.split())
    for shown in (
        "shop, 2027-01-15 08:00:00 UTC, up 2 h 0 min",
        "workers 3: 1 idle, 1 in a request, 1 after the response; all busy 6 times",
        "requests 345; listen queue 2, longest 11 of 2,048",
        "3 waiting, the oldest 1.2 s; 8 finished, 2 failed, 1 skipped, 1 lost, 4 slow",
        "101 after response 2.5 s shop.mail 3 12 82 MB",
        "shop.mail 8 2 1 0 3 32 ms 955 ms 662 ms 1.0 s",
        "2027-01-15 07:59:55 shop.mail OSError /srv/shop.py:7 r-1",
    ):
        assert shown in words
    assert "\x1b" not in text
    heads = [line for line in text.splitlines() if line.startswith("PID")]
    [row] = [line for line in text.splitlines() if line.startswith("101")]
    assert heads[0].index("CALL") == row.index("shop.mail")


@pytest.mark.usefixtures("show")
def test_jobs(answers, capsys):
    """Their counts, if the page has them."""
    page = StatusPage(allow=lambda environ: True, jobs=FakeJobs())
    answers.append(json.loads(ask(page, "format=json").body))
    assert main(["top", "unix:/run/shop.sock:/status", "--once"]) == 0
    last = capsys.readouterr().out.splitlines()[-2:]
    assert [line.split() for line in last] == [
        ["JOBS", "QUEUED", "DONE", "FAILED"], ["mail.welcome", "0", "0", "2"],
    ]  # fmt: skip


def test_no_workers_and_no_calls(answers, capsys):
    """A process that has done nothing yet."""
    answers.append(told(workers=(), calls=(), failures=(), whole=False, name=""))
    assert main(["top", "http://127.0.0.1:8000/"]) == 0
    assert "workers (this process only)" in capsys.readouterr().out


def test_a_terminal_gets_nothing_to_obey(answers, capsys):
    """Names may have control characters in them."""
    answers.append(
        told(
            name=NASTY,
            workers=(worker(call=NASTY, state=NASTY),),
            calls=(calls(NASTY),),
            failures=(failure(name=NASTY, error=NASTY, origin=NASTY),),
        )
    )
    main(["top", "http://127.0.0.1:8000/"])
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert text.count("\\x1b[31m\\u202e\\n") == 7


def test_in_a_terminal_it_is_drawn_anew(answers, capsys, monkeypatch):
    """In its size, on another screen, which goes away; a failure does not end it."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr(_top.shutil, "get_terminal_size", lambda: SIZE)
    answers += [
        told(), told(), SourceError("no answer\x1b[2J"), told(), KeyboardInterrupt(),
    ]  # fmt: skip
    assert main(["top", "http://127.0.0.1:8000/"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(_top.ENTER)
    assert out.endswith(_top.LEAVE)
    screens = out.removeprefix(_top.ENTER).removesuffix(_top.LEAVE).split(_top.HOME)[1:]
    assert len(screens) == 4
    assert "no answer\\x1b[2J" in screens[2]
    assert "no answer" not in screens[3]
    for screen in screens:
        lines = screen.removesuffix(_top.REST_OF_SCREEN).split("\n")
        assert len(lines) <= SIZE[1]
        for line in lines:
            for code in (_top.REST_OF_LINE, _top.BOLD, _top.PLAIN):
                line = line.replace(code, "")
            assert len(line) <= SIZE[0]


def test_a_page_that_is_not_there(answers, capsys):
    """Said in one line, and with an exit status."""
    answers.append(SourceError("http://x/ refuses \x1b[2J"))
    assert main(["top", "http://127.0.0.1:8000/"]) == 1
    assert capsys.readouterr().err == "wsgi_defer top: http://x/ refuses \\x1b[2J\n"


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:8000", "ftp://x/", "http:///x", "http://x/\x1b", "http://x/ä"],
)
def test_what_is_no_address(address, capsys):
    assert main(["top", address]) == 1
    error = capsys.readouterr().err
    assert "write http://127.0.0.1:8000/status or unix:" in error
    assert "\x1b" not in error


@pytest.mark.parametrize(
    ("arguments", "status"), [([], 2), (["flop"], 2), (["--help"], 0), (["-h"], 0)]
)
def test_commands(arguments, status, capsys):
    """What is unknown gets the list."""
    assert main(arguments) == status
    out, err = capsys.readouterr()
    assert "usage: python -m wsgi_defer COMMAND" in (err if status else out)
