"""Where a line goes in a gunicorn: to its log, until the app sets up logging."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from wsgi_defer import defer, deferring
from wsgi_defer._runtime import events, report


class Kept(logging.Handler):
    """Keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)

    @property
    def said(self):
        """The texts of the records."""
        return [record.getMessage() for record in self.records]


@pytest.fixture(autouse=True)
def not_set_up(monkeypatch):
    """Nobody has set up logging but pytest, whose handlers do not count."""

    def has_handlers():
        handlers = [*logging.getLogger().handlers, *report.logger.handlers]
        return any(isinstance(each, Kept) for each in handlers)

    monkeypatch.setattr(report.logger, "hasHandlers", has_handlers)
    monkeypatch.setattr(report, "_of_server", None)
    monkeypatch.setattr(report, "_error_log", None)


@pytest.fixture
def error_log():
    """gunicorn's, as it makes it: with a handler, and without a parent."""
    log = logging.Logger("gunicorn.error", logging.INFO)
    log.kept = Kept()
    log.addHandler(log.kept)
    return log


@pytest.fixture
def apps():
    """What the app sets up, when it does."""
    handler = Kept()

    def set_up(name=None):
        logging.getLogger(name).addHandler(handler)

    handler.set_up = set_up
    yield handler
    for log in (logging.getLogger(), report.logger):
        log.removeHandler(handler)


def fail():
    raise ValueError("x\nforged")


def run(fn, name="mail"):
    with deferring():
        defer(fn).named(name)


def test_the_error_log_gets_the_line(error_log):
    """With its facts and its traceback, and nothing of the app's can forge a line."""
    report.use_log_of_server(SimpleNamespace(error_log=error_log))
    run(fail)
    (record,) = error_log.kept.records
    assert record.getMessage().startswith("wsgi_defer: deferred call mail failed; ")
    assert record.name == "wsgi_defer"
    assert record.wsgi_defer_call == "mail"
    assert record.exc_info[0] is ValueError
    assert "ValueError: x\\nforged" in logging.Formatter().format(record)


@pytest.mark.parametrize("name", [None, "wsgi_defer"])
def test_the_app_sets_up_logging_late(error_log, apps, name):
    """From then on, its own handlers get the lines, and each line is said once."""
    report.use_log_of_server(SimpleNamespace(error_log=error_log))
    run(fail, "before")
    apps.set_up(name)
    run(fail, "after")
    assert [record.wsgi_defer_call for record in error_log.kept.records] == ["before"]
    assert [record.wsgi_defer_call for record in apps.records] == ["after"]
    assert apps.said[0].startswith("deferred call after failed; ")


@pytest.mark.parametrize(("level", "shown"), [("DEBUG", True), ("INFO", False)])
def test_its_level_decides(error_log, level, shown):
    """Ours would show warnings only, as the root logger does."""
    error_log.setLevel(level)
    report.use_log_of_server(SimpleNamespace(error_log=error_log))
    run(int)
    assert bool(error_log.kept.records) == shown


def test_what_is_chosen_for_our_logger_holds(error_log, monkeypatch):
    """Its level, whatever gunicorn's is; its filters; and that it is disabled."""
    report.use_log_of_server(SimpleNamespace(error_log=error_log))
    ours = logging.getLogger("wsgi_defer")
    ours.setLevel(logging.DEBUG)
    run(int, "above the level")
    ours.setLevel(logging.ERROR)
    error_log.setLevel(logging.DEBUG)
    run(int, "below the level")
    ours.setLevel(logging.NOTSET)
    monkeypatch.setattr(ours, "filters", [lambda record: False])
    run(fail, "filtered")
    ours.filters = []
    ours.disabled = True
    run(fail, "disabled")
    ours.disabled = False
    run(fail, "shown")
    calls = [each.wsgi_defer_call for each in error_log.kept.records]
    assert calls == ["above the level", "shown"]


def test_a_filter_that_returns_another_record(error_log, monkeypatch):
    """As it may from Python 3.12 on."""

    class Filter:
        def filter(self, record):
            other = logging.makeLogRecord(vars(record))
            other.msg = f"[shop] {record.msg}"
            return other

    report.use_log_of_server(SimpleNamespace(error_log=error_log))
    ours = logging.getLogger("wsgi_defer")
    monkeypatch.setattr(ours, "filters", [])
    monkeypatch.setattr(ours, "filter", Filter().filter)
    run(fail)
    assert error_log.kept.said[0].startswith("[shop] wsgi_defer: deferred call mail ")


def test_an_error_log_that_was_disabled(error_log, caplog):
    """By dictConfig(), as it does by default. What is lost is said nowhere else."""
    report.use_log_of_server(SimpleNamespace(error_log=error_log))
    error_log.disabled = True
    run(fail)
    assert error_log.kept.records == []
    assert caplog.messages[0].startswith("deferred call mail failed; ")


class Lines:
    """A ``logger_class`` that writes lines of its own, and is no logger."""

    def __init__(self):
        self.lines = []

    def error(self, message, *args, extra):
        self.lines.append(("error", message % args, extra))

    def warning(self, message, *args):
        raise OSError("disk full")


class Silent(Lines):
    """One with gunicorn's logger in it, as its base class makes it, but no handler."""

    def __init__(self):
        super().__init__()
        self.error_log = logging.Logger("gunicorn.error")


@pytest.mark.parametrize("kind", [Lines, Silent])
def test_a_logger_class_of_its_own(kind):
    """Its methods get the text, with the traceback, and the facts."""
    log = kind()
    report.use_log_of_server(log)
    run(fail)
    ((level, text, extra),) = log.lines
    assert level == "error"
    assert text.startswith("wsgi_defer: deferred call mail failed; ")
    assert "ValueError: x\\nforged" in text
    assert extra["wsgi_defer_event"] == "failed"
    assert extra["wsgi_defer_error"] == "ValueError"


def test_the_level_of_a_logger_class_of_its_own():
    """Its ``loglevel``, as gunicorn's have one; information, if it has none."""
    log = Lines()
    report.use_log_of_server(log)
    assert not report.heard(events.FINISHED)
    assert report.heard(events.JOB_ATTEMPT)
    log.loglevel = logging.DEBUG
    assert report.heard(events.FINISHED)


def test_a_logger_class_that_raises(capsys):
    """The line goes to stderr."""
    report.use_log_of_server(Lines())
    report.log(events.STOPPING, "told to stop", facts={})
    said = capsys.readouterr().err
    assert said == (
        "wsgi_defer: told to stop\n"
        "wsgi_defer: the log could not take that: it raised TypeError\n"
    )
