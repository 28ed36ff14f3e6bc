"""The command of jobs: its output helps."""

from __future__ import annotations

import json
import os

import pytest

from wsgi_defer.jobs.__main__ import main, parser
from wsgi_defer.jobs._command import reload


def test_list_is_aligned(here, capsys):
    """Titles, one line per job, and nothing that a terminal would obey."""
    assert main(["list", "command_app:jobs"]) == 0
    titles, done, failed = capsys.readouterr().out.splitlines()
    assert titles.split() == ["ID", "NAME", "STATE", "ATTEMPTS", "ENQUEUED", "FINISHED"]
    assert done == ("a1         mail.welcome  done    1         "
                    "2026-11-22 13:30:00Z  2026-11-22 13:30:00Z")  # fmt: skip
    assert failed.index("failed") == done.index("done")


def test_failed_shows_errors_on_one_line(here, capsys):
    """Short ones, with their control characters spelt out."""
    assert main(["failed", "command_app:jobs", "--limit", "1"]) == 0
    _, failed = capsys.readouterr().out.splitlines()
    assert r"OSError: \x1b[31m two\nlines xxx" in failed
    assert failed.endswith("xxx...")


def test_json_is_complete(here, capsys):
    """With times as ISO 8601, for lists and for one job."""
    assert main(["list", "command_app:jobs", "--json"]) == 0
    jobs = json.loads(capsys.readouterr().out)
    assert [job["id"] for job in jobs] == ["a1", "longer-id"]
    assert main(["show", "command_app:jobs", "a1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == jobs[0]
    assert jobs[0]["result"] == {"sent": True}
    assert jobs[0]["due_at"] == "2026-11-22T13:30:00+00:00"


def test_show_tells_all(here, capsys):
    """A line per field."""
    assert main(["show", "command_app:jobs", "a1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "state        done" in lines
    assert "error        -" in lines
    assert 'result       {"sent": true}' in lines


def test_retry_continues_after_an_error(here, capsys):
    """What can be queued again is queued; the status tells that something was not."""
    ids = ["strange", "a1", "longer-id"]
    assert main(["retry", "command_app:jobs", *ids]) == 1
    out, errors = capsys.readouterr()
    assert out == "longer-id is queued again\n"
    assert len(errors.splitlines()) == 2
    assert "there is no job 'strange'" in errors
    assert "the job 'a1' is done" in errors
    assert main(["retry", "command_app:jobs", "longer-id"]) == 0


def test_clear_tells_how_many(here, capsys):
    """The days may be fractions."""
    assert main(["clear", "command_app:jobs", "--days", "1.5"]) == 0
    assert capsys.readouterr().out == "36 jobs cleared\n"


def test_lists_can_be_narrowed(here, capsys):
    """By state and by name, which may have no jobs."""
    assert main(["list", "command_app:jobs", "--state", "failed", "--json"]) == 0
    assert [job["id"] for job in json.loads(capsys.readouterr().out)] == ["longer-id"]
    for more in (["--name", "mail.welcome"], ["--state", "done", "--name", "x"]):
        assert main(["list", "command_app:jobs", *more]) == 0
        assert "longer-id" not in capsys.readouterr().out
    assert main(["failed", "command_app:jobs", "--name", "mail.welcome"]) == 0
    assert capsys.readouterr().out == ""


def test_count_is_a_table(here, capsys):
    """One line in all, or a line for each handler; or JSON."""
    assert main(["count", "command_app:jobs"]) == 0
    titles, counts = capsys.readouterr().out.splitlines()
    assert titles.split() == ["QUEUED", "SCHEDULED", "RUNNING", "DONE", "FAILED",
                              "CANCELLED"]  # fmt: skip
    assert counts.split() == ["0", "0", "0", "1", "1", "0"]
    assert main(["count", "command_app:jobs", "--by-name"]) == 0
    titles, mail, _ = capsys.readouterr().out.splitlines()
    assert titles.startswith("NAME          QUEUED")
    assert mail.split() == ["mail.welcome", "0", "0", "0", "1", "0", "0"]
    assert main(["count", "command_app:jobs", "--by-name", "--json"]) == 0
    by_name = json.loads(capsys.readouterr().out)
    assert by_name["x"]["failed"] == 1
    assert main(["count", "command_app:jobs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["done"] == 1


def test_cancel_tells_what_it_refuses(here, capsys):
    """With the status 1 if there is nothing of an id, or if it does not wait."""
    assert main(["cancel", "command_app:jobs", "strange", "a1"]) == 1
    out, errors = capsys.readouterr()
    assert out == ""
    assert "there is no job 'strange'" in errors
    assert "the job 'a1' is done; only one that waits is cancelled" in errors
    assert main(["cancel", "command_app:jobs", "strange", "--json"]) == 1
    [told] = json.loads(capsys.readouterr().out)
    assert told["id"] == "strange"
    assert told["error"].startswith("there is no job 'strange'")


def test_retry_all_tells_how_many(here, capsys):
    """Of one handler, or of all."""
    assert main(["retry", "command_app:jobs", "--all"]) == 0
    assert capsys.readouterr().out == "1 jobs are queued again\n"
    assert main(["retry", "command_app:jobs", "--all", "--name", "none"]) == 0
    assert capsys.readouterr().out == "0 jobs are queued again\n"
    assert main(["retry", "command_app:jobs", "--all", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"queued": 1}
    assert main(["clear", "command_app:jobs", "--days", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"cleared": 24}


def test_schedule_lists_the_next_times(here, capsys):
    """As a table, in UTC, or as JSON."""
    assert main(["schedule", "command_app:timed", "--limit", "2"]) == 0
    titles, first, second = capsys.readouterr().out.splitlines()
    assert titles.split() == ["DUE", "NAME", "EVERY", "TIMEZONE"]
    assert "reports.nightly  0 2 * * *  Europe/Berlin" in first
    assert first < second
    assert main(["schedule", "command_app:timed", "--json"]) == 0
    [due] = json.loads(capsys.readouterr().out)
    assert due["name"] == "reports.nightly"
    assert due["due_at"].endswith(":00:00+00:00")
    assert main(["schedule", "command_app:jobs"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["list", "no_such_app:jobs"], "cannot import no_such_app: ModuleNotFoundErr"),
        (["list", "command_broken:jobs"], "ZeroDivisionError: division by zero, in"),
        (["list", "command_app:jbos"], "command_app has no jbos"),
        (["list", "command_app:nothing"], "is not a Jobs object, but a NoneType"),
        (["list", "command_app:down"], "listing the jobs failed"),
        (["list", "command_app:down"], "(OSError: connection refused)"),
        (["show", "command_app:jobs", "x"], "there is no job 'x'"),
        (["list", "command_app:create_app"], "makes the app, write 'command_app:crea"),
        (["list", "command_app:create_app('x')"], "call jobs.init_app(app)"),
        (["list", "command_app:create_app('broken')"], "OSError: no configuration, in"),
        (["list", "command_app:empty_app(1, 2)"], "too many positional arguments\n"),
        (["list", "command_app:empty_app()"], "missing a required argument: 'name'\n"),
        (
            ["list", "command_app:empty_app(1, x=2)"],
            "unexpected keyword argument 'x'\n",
        ),
        (["list", "command_app:nothing()"], "'NoneType' object is not callable"),
        (["worker", "command_app:empty_app('x')"], "--import shop.handlers\n"),
        (["list", "command_app:jobs", "--import", "none"], "cannot import none: Modul"),
        (["worker", "command_app:bare"], "command_app:bare has no handlers"),
        (["worker", "command_app:bare"], "name the factory: command_app:create_app()"),
    ],
)
def test_what_goes_wrong_is_one_line(here, capsys, argv, says):
    """On stderr, with the status 1. It says what went wrong."""
    (here / "command_broken.py").write_text("1 / 0")
    assert main(argv) == 1
    out, errors = capsys.readouterr()
    assert out == ""
    assert says in errors
    assert errors.startswith("wsgi_defer.jobs: ")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["list"],
        ["list", "command_app"],
        ["list", "command_app:create_app("],
        ["list", "command_app:create_app(open('x'))"],
        ["list", "command_app:create_app(\n"],
        ["list", "command_app:create_app(**{'debug': True})"],
        ["list", "command_app:jobs", "--limit", "1000000"],
        ["failed", "command_app:jobs", "--limit", "9" * 5000],
        ["clear", "command_app:jobs", "--days", "-1"],
        ["clear", "command_app:jobs", "--days", "nan"],
        ["clear", "command_app:jobs", "--days", "1e308"],
        ["worker", "command_app:jobs", "--processes", "1000000"],
        ["list", "command_app:jobs", "--limit", "0"],
        ["list", "command_app:jobs", "--state", "lost"],
        ["list", "command_app:jobs", "--name", "no name"],
        ["retry", "command_app:jobs"],
        ["retry", "command_app:jobs", "a1", "--all"],
        ["retry", "command_app:jobs", "a1", "--name", "x"],
        ["cancel", "command_app:jobs"],
        ["list", "command_app:jobs", "--import", "shop handlers"],
        ["list", "command_app:jobs", "--import"],
        ["clear", "command_app:jobs"],
        ["worker", "command_app:jobs", "--processes", "none"],
        ["frobnicate", "command_app:jobs"],
    ],
)
def test_wrong_usage_has_the_status_2(capsys, argv):
    """And one line that says what is wrong."""
    with pytest.raises(SystemExit) as caught:
        parser().parse_args(argv)  # which starts nothing, even if it finds no fault
    assert caught.value.code == 2
    errors = capsys.readouterr().err
    assert errors.startswith("wsgi_defer.jobs: ")
    assert errors.endswith(" --help\n")
    assert errors.count("\n") == 1
    assert len(errors) < 300


@pytest.mark.parametrize("made", ["create_app()", "create_app(debug=True)", "app"])
def test_a_target_may_be_an_app_or_make_one(here, capsys, made):
    """Like Flask's own --app; its Jobs is the one of init_app()."""
    assert main(["list", f"command_app:{made}"]) == 0
    assert "longer-id" in capsys.readouterr().out


def test_which_files_are_watched(tmp_path):
    """Those in Python, but not those of environments, and hidden ones."""
    theirs = [".git/d.py", "venv/e.py", "venv/f/g.py", "node_modules/h.py"]
    for path in ("a.py", "b/c.py", "b/data.txt", "b/__pycache__/i.py", *theirs):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / "venv/pyvenv.cfg").touch()
    (tmp_path / "gone.py").symlink_to("nowhere")
    before = reload.files(tmp_path)
    assert {*before} == {f"{tmp_path}/a.py", f"{tmp_path}/b/c.py"}
    (tmp_path / "b/c.py").write_text("1")
    os.utime(tmp_path / "b/c.py", (1, 1))
    assert reload.files(tmp_path) != before
