"""What the log ``wsgi_defer`` gets: every line, and no forged one."""

from __future__ import annotations

import builtins
import logging
import logging.config
import sys

import pytest

from wsgi_defer import defer, deferring
from wsgi_defer._runtime import events, report

FORGED = "x\nERROR forged \x1b[2J\r\u2028\x85\udc80"


def fail(text, *notes):
    """Raise an error with that message."""
    error = ValueError(text)
    error.__notes__ = list(notes)
    raise error


@pytest.fixture
def refusing():
    """A filter of the log that raises, as one does that reads ``flask.request``."""

    def refuse(record):
        raise RuntimeError("working outside of request context")

    report.logger.addFilter(refuse)
    yield
    report.logger.removeFilter(refuse)


def test_a_log_that_cannot_be_written(refusing, capsys):
    """Each line goes to stderr, with the traceback, and with why."""
    for number in range(2):
        with deferring():
            defer(fail, f"number {number}").named("mail")
    said = capsys.readouterr().err
    for number in range(2):
        assert f"ValueError: number {number}" in said
    assert said.count("deferred call mail failed") == 2
    assert said.count("the log could not take that: it raised RuntimeError") == 2


def test_a_message_without_a_traceback(refusing, capsys):
    """The same."""
    report.log(events.STOPPING, "100 %", facts={})
    assert capsys.readouterr().err.startswith("wsgi_defer: 100 %\n")


def test_nothing_can_be_written(refusing, monkeypatch):
    """Then nothing is raised."""
    monkeypatch.setattr(sys, "stderr", None)
    report.log(events.LOST, "x", facts={})


def test_what_would_not_be_shown_is_escaped():
    """Also what changes the direction of a line, or has no width; letters are not."""
    assert report.printable("ä漢 \u202e\u200b\ufeff\x1b\n") == (
        "ä漢 \\u202e\\u200b\\ufeff\\x1b\\n"
    )


def test_a_level_that_is_off(caplog):
    """It costs no record."""
    caplog.set_level(logging.ERROR, "wsgi_defer")
    report.log(events.JOB_ATTEMPT, "x", facts={})
    assert caplog.records == []


def test_no_text_of_the_app_forges_a_line(caplog):
    """Neither a name, nor an error's message, its notes, its cause, or its group."""

    def group():
        try:
            fail(FORGED, FORGED)
        except ValueError as error:
            if sys.version_info >= (3, 11):
                error = builtins.ExceptionGroup(FORGED, [error])
            raise RuntimeError(FORGED) from error

    with deferring():
        defer(fail, FORGED).named(FORGED)
        defer(group).named("group")
    assert len(caplog.records) == 2
    for line in caplog.text.splitlines():
        assert not line.startswith("ERROR forged")
        assert "\x1b" not in line
    assert caplog.text.count("x\\nERROR forged \\x1b[2J\\r\\u2028\\x85\\udc80") >= 3


def test_messages_that_are_no_text(caplog):
    """A message of line breaks alone, and one that cannot be had."""

    class MuteError(Exception):
        def __str__(self):
            raise TypeError

    def mute():
        raise MuteError from ValueError("\n")

    with deferring():
        defer(mute)
    assert "Traceback (most recent call last):\n  File" in caplog.text
    assert "ValueError: \\n\n" in caplog.text


def test_many_causes():
    """Those of a chain without an end are not all looked at."""
    error = ValueError("0")
    for number in range(2 * report.MOST_ERRORS):
        following = ValueError(str(number))
        following.__context__ = error
        error = following
    assert "ValueError: 1" in report.traceback_of(error)


SILENT = {"version": 1}  # with disable_existing_loggers, as by default
INI = "[loggers]\nkeys=root\n[handlers]\nkeys=\n[formatters]\nkeys=\n" \
      "[logger_root]\nhandlers=\n"  # fmt: skip


@pytest.fixture
def configured(tmp_path):
    """Logging can be configured anew, and is then as it was."""
    root, log = logging.getLogger(), logging.getLogger("wsgi_defer")
    before = [(logger, logger.handlers[:], logger.level) for logger in (root, log)]
    others = [
        (logger, logger.disabled)
        for logger in logging.root.manager.loggerDict.values()
        if isinstance(logger, logging.Logger)
    ]
    (tmp_path / "log.ini").write_text(INI)
    yield lambda: logging.config.fileConfig(tmp_path / "log.ini")
    for logger, handlers, level in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)
    for logger, disabled in others:
        logger.disabled = disabled


def fails(caplog):
    """Whether a call that fails is told."""
    logging.getLogger().addHandler(caplog.handler)
    caplog.clear()
    with deferring():
        defer(fail, "x")
    return "failed" in caplog.text


@pytest.mark.parametrize("how", ["dictConfig", "fileConfig"])
def test_logging_is_configured_after_the_import(caplog, configured, how):
    """That disables all loggers that it does not name, but not this one."""
    other = logging.getLogger("other")
    if how == "dictConfig":
        logging.config.dictConfig(SILENT)
    else:
        configured()
    assert other.disabled
    assert fails(caplog)


def test_what_is_chosen_for_the_logger_holds(caplog, configured):
    """By its attribute, and by its level in a configuration that names it."""
    log = logging.getLogger("wsgi_defer")
    log.disabled = True
    assert not fails(caplog)
    logging.config.dictConfig(SILENT)
    assert not fails(caplog)
    log.disabled = False
    assert fails(caplog)
    logging.config.dictConfig(
        {**SILENT, "loggers": {"wsgi_defer": {"level": "CRITICAL"}}}
    )
    assert not fails(caplog)
    assert not log.disabled
