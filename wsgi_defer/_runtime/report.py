"""Writing to the log ``wsgi_defer``: no line is lost, and none can be forged.

Each line is an event of the catalogue, ``events``, with its facts as fields.

A filter or a handler of the app's may raise: one that reads ``flask.request`` does so
outside a request. The line then goes to ``sys.stderr``, each time. And a text of the
app's, such as the message of an exception, may have line breaks and other control
characters in it. Those are escaped, so that it cannot pass for a line of its own.

If the app has not set up logging, lines go to the log of the server, where the server
has told us of one. That is looked up for each line, as an app may set up logging late.

``dictConfig()`` and ``fileConfig()`` of ``logging.config`` disable, by default, every
logger that exists and that they do not name. They do not disable this one, whose lines
are often the only trace of a failure. What somebody chooses for it holds: its level,
handlers and filters, ``logging.disable()``, and
``logging.getLogger("wsgi_defer").disabled = True``.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import sys
import traceback
from contextlib import suppress
from types import CodeType
from typing import Any

from .events import Event, Facts

logger = logging.getLogger("wsgi_defer")


class _NotDisabledInPassing(logging.Logger):
    """Takes no ``disabled = True`` from ``logging.config``, which sweeps them all."""

    @property
    def disabled(self) -> bool:
        return bool(self.__dict__["disabled"])

    @disabled.setter
    def disabled(self, value: bool) -> None:
        setter = sys._getframe(1).f_globals.get("__name__")
        if not (value and setter == "logging.config"):
            self.__dict__["disabled"] = value


# It may exist: somebody has configured it, perhaps as a logger of another class.
logger.__class__ = type("Logger", (_NotDisabledInPassing, type(logger)), {})

# Control characters, Unicode's line separators, and lone surrogates, which cannot be
# encoded.
_CONTROL_IN_LINES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
MOST_ERRORS = 100  # whose messages are escaped, of the causes of one


def printable(text: object) -> str:
    """The text on one line, without what a terminal would obey, or would not show."""
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def line_of(code: CodeType, instruction: int) -> str:
    """The line of an instruction, as ``file:line``."""
    line = code.co_firstlineno
    for start, end, number in code.co_lines():
        if start <= instruction < end and number is not None:
            line = number
    return f"{code.co_filename}:{line}"


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape", "surrogatepass").decode()


def qualified_name(fn: object) -> str:
    """Name a callable for people: ``module.function``, never its ``repr()``.

    The ``repr()`` of a partial or a bound method would show arguments.
    """
    fn = without_partials(fn)
    try:
        name, module = fn.__qualname__, fn.__module__  # type: ignore[attr-defined]
    except Exception:  # an instance with __call__, or a proxy without its object
        name, module = type(fn).__qualname__, type(fn).__module__
    return f"{module}.{name}" if module else str(name)


def without_partials(fn: object) -> object:
    """The function that a partial, or a partial of a partial, calls."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    return fn


def traceback_of(error: BaseException) -> str:
    """Its traceback and those of its causes, with their messages on one line each."""
    text = "".join(traceback.format_exception(error)).rstrip("\n")
    for before, message in _messages(error):
        text = text.replace(before + message, before + printable(message))
    return _CONTROL_IN_LINES.sub(_escape, text)


def _messages(error: BaseException) -> list[tuple[str, str]]:
    """The texts in its traceback that are the app's, and what stands before each."""
    found: dict[int, BaseException] = {}
    left: list[BaseException | None] = [error]
    messages: list[tuple[str, str]] = []
    while left and len(found) < MOST_ERRORS:
        each = left.pop()
        if each is None or id(each) in found:
            continue
        found[id(each)] = each
        left += [each.__cause__, each.__context__, *getattr(each, "exceptions", ())]
        with suppress(Exception):  # by its own __str__()
            messages.append((": ", str(each)))
        for note in getattr(each, "__notes__", ()):
            with suppress(Exception):
                messages.append(("\n", str(note)))
    # The longest first, as others may be part of it.
    return sorted(messages, key=lambda each: -len(each[1]))


def heard(event: Event) -> bool:
    """Whether somebody would see its line. Quick, for what happens often."""
    level = event.level
    if _of_server is None or logger.level:  # which somebody has chosen
        return logger.isEnabledFor(level)
    if not (_shows(level) or logger.isEnabledFor(level)):
        return False  # wherever it would go
    if _destination() is logger:
        return logger.isEnabledFor(level)
    return _shows(level) and not logger.disabled


def _shows(level: int) -> bool:
    """Whether the log of the server shows that level."""
    if _error_log is None:
        return level >= int(getattr(_of_server, "loglevel", logging.INFO))
    return _error_log.isEnabledFor(level)


def log(event: Event, message: str, *args: object, facts: Facts) -> None:
    """Log it, or write it to ``sys.stderr`` if the log cannot take it."""
    _write(event, message, args, facts, None)


def failure(
    event: Event, error: BaseException, message: str, *args: object, facts: Facts
) -> None:
    """As ``log()``, with the traceback, and with the error's class among the facts."""
    _write(event, message, args, facts, error)


# gunicorn's, in its master and its workers: what its ``logger_class`` has made, and the
# logger in it, as its own class has one.
_of_server: Any = None
_error_log: logging.Logger | None = None


def use_log_of_server(log: Any) -> None:
    """Write to that log of gunicorn's as long as the app has not set up logging."""
    global _of_server, _error_log
    found = getattr(log, "error_log", None)
    # A class of its own may write elsewhere.
    good = isinstance(found, logging.Logger) and found.hasHandlers()
    _of_server, _error_log = log, found if good else None


def _destination() -> logging.Logger | None:
    """Where a line goes; None for a log of the server that is no logger."""
    if _of_server is None or logger.hasHandlers():
        return logger
    # dictConfig() may have disabled it, and given handlers to other loggers only.
    if _error_log is not None and _error_log.disabled:
        return logger
    return _error_log


def _fields(event: Event, facts: Facts, error: BaseException | None) -> dict[str, Any]:
    fields = {"event": event.name, "worker": os.getpid(), **facts}
    if error is not None:
        fields["error"] = type(error).__qualname__
    return {
        f"wsgi_defer_{name}": _plain(value)
        for name, value in fields.items()
        if value is not None
    }


def _plain(value: object) -> object:
    if isinstance(value, float):
        return round(value, 6)  # microseconds
    return printable(value) if isinstance(value, str) else value


def _write(
    event: Event,
    message: str,
    args: tuple[object, ...],
    facts: Facts,
    error: BaseException | None,
) -> None:
    caller: Any = None
    trace: Any = None
    record: Any = None
    try:
        if not heard(event):
            return
        log = _destination()
        caller = sys._getframe(2)
        trace = None if error is None else (type(error), error, error.__traceback__)
        record = logger.makeRecord(
            logger.name, event.level, caller.f_code.co_filename, caller.f_lineno,
            # The server's format does not show the name of the logger.
            message if log is logger else f"wsgi_defer: {message}",
            args, trace, caller.f_code.co_name, _fields(event, facts, error),
        )  # fmt: skip
        if error is not None:
            # Formatters write this text and do not format the traceback themselves.
            record.exc_text = traceback_of(error)
        if log is logger:
            logger.handle(record)
        elif kept := logger.filter(record):
            # From Python 3.12 on, a filter may return a record of its own.
            record = kept if isinstance(kept, logging.LogRecord) else record
            _hand_over(record, log)
    except Exception as raised:
        with suppress(Exception):
            text = message % args if args else message
            lines = [f"wsgi_defer: {text}"]
            if error is not None:
                lines.append(traceback_of(error))
            kind = type(raised).__name__
            lines.append(f"wsgi_defer: the log could not take that: it raised {kind}")
            sys.stderr.write("\n".join(lines) + "\n")
            sys.stderr.flush()
    finally:
        caller = trace = record = error = None  # frame cycle


def _hand_over(record: logging.LogRecord, log: logging.Logger | None) -> None:
    """Give it to the log of the server."""
    if log is not None:
        log.handle(record)
        return
    lines = [record.getMessage(), record.exc_text]
    fields = {
        name: value
        for name, value in vars(record).items()
        if name.startswith("wsgi_defer_")
    }
    write = getattr(_of_server, record.levelname.lower())
    write("%s", "\n".join(filter(None, lines)), extra=fields)
