"""Sentry: an event for each failure, and a transaction for each call and each job.

::

    from wsgi_defer.observers.sentry import Sentry

    Defer(app, observers=[Sentry()])
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import Context, ContextVar
from typing import Any

import sentry_sdk
from sentry_sdk.scope import Scope as SentryScope
from sentry_sdk.traces import StreamedSpan
from sentry_sdk.tracing import TransactionSource
from sentry_sdk.tracing_utils import has_span_streaming_enabled
from sentry_sdk.utils import capture_internal_exceptions, event_from_exception

from .._runtime import report
from ._job_observer import JobAttempt, JobObserver
from ._observer import Call, Observer, Scope

ORIGIN = "auto.wsgi_defer"
PACKAGE = __name__.partition(".")[0]
BAGGAGE = "sentry-baggage"  # with a job, where "baggage" is OpenTelemetry's
FLUSH = 2.0  # seconds for what waits to be sent, where a process ends at once
# The headers of the trace at the line that deferred the call, in the call's context.
_headers: ContextVar[dict[str, str]] = ContextVar("wsgi_defer.sentry")


class Sentry(Observer, JobObserver):
    """Tells Sentry of failures, and of what calls and jobs do. Thread-safe.

    A failed call is one event, and so is a job that has failed for good: what the log
    ``wsgi_defer`` has at ERROR with a traceback. It has ``handled=False`` and the
    mechanism ``wsgi_defer``. It has the request, user, tags and trace of the view, the
    tag ``wsgi_defer.call``, and the breadcrumbs of the call only. Of failures that the
    app deals with, by ``catch()`` or ``result()``, it hears nothing. Lost and slow
    calls are events by their line in the log, as they are without this.

    A call is a transaction, in the trace of its request, with the operation
    ``wsgi_defer.call``. While the request, or a block of ``deferring()``, waits for it,
    it is a span of what is traced there: before the response, or where ``result()``
    runs it early. An attempt of a job is a transaction, ``wsgi_defer.job``, in the
    trace that has enqueued it.

    :param arguments: True adds the arguments of a failed call to its event. By default,
        Sentry gets none from us; it shows variables of the app's own functions, if
        ``sentry_sdk.init()`` says so.

    Call ``sentry_sdk.init()`` before, or after: this does nothing until then.
    """

    def __init__(self, *, arguments: bool = False) -> None:
        self._arguments = arguments
        self._given: dict[Call, Any] = {}
        self._open: dict[Call, Any] = {}
        report.logger.addFilter(_capture)  # the same one counts once

    def queued(self, call: Call, scope: Scope) -> None:
        context = call.context or Context()  # None if it was told of its end meanwhile
        context.run(_headers.set, _trace_here())
        if self._arguments:
            self._given[call] = {"args": call._args, "kwargs": call._kwargs}

    def started(self, call: Call, scope: Scope) -> None:
        # Not put back: the context is the call's own, and ends with it.
        isolated = sentry_sdk.get_isolation_scope().fork()
        SentryScope.set_isolation_scope(isolated)
        SentryScope.set_current_scope(sentry_sdk.get_current_scope().fork())
        isolated.clear_breadcrumbs()
        isolated.set_tag("wsgi_defer.call", call.label)
        about = {"call": call.label, "origin": call.origin, "waited": call.waited,
                 "request_id": scope.request_id}  # fmt: skip
        isolated.set_context("wsgi_defer", about | self._given.pop(call, {}))
        request_is_over = scope.answers and scope.outcome is not None
        if request_is_over or not _is_traced():
            span = _transaction("call", call.label, _headers.get({}))
        else:
            span = _span("call", call.label)
        self._open[call] = span.__enter__()

    def finished(self, call: Call, scope: Scope) -> None:
        self._end(call, "ok")

    def failed(self, call: Call, scope: Scope, error: BaseException) -> None:
        self._end(call, "internal_error")

    def skipped(self, call: Call, scope: Scope, why: str) -> None:
        self._end(call, "cancelled")

    def lost(self, call: Call, scope: Scope, why: str) -> None:
        self._end(call, "aborted")

    def _end(self, call: Call, status: str) -> None:
        self._given.pop(call, None)
        span = self._open.pop(call, None)
        if span is not None:  # it has started, and this has heard of it
            _set_status(span, status)
            span.__exit__(None, None, None)

    def enqueuing(self, name: str, carrier: MutableMapping[str, str]) -> None:
        headers = _trace_here()
        if "baggage" in headers:
            headers[BAGGAGE] = headers.pop("baggage")
        carrier.update(headers)

    @contextmanager
    def attempting(
        self, attempt: JobAttempt, carrier: Mapping[str, str]
    ) -> Iterator[None]:
        """A transaction, in a scope of its own."""
        headers = dict(carrier)
        headers["baggage"] = headers.pop(BAGGAGE, "")
        with sentry_sdk.isolation_scope() as isolated:
            isolated.clear_breadcrumbs()
            isolated.set_tag("wsgi_defer.job", attempt.name)
            isolated.set_context("wsgi_defer", attempt._asdict())
            with _transaction("job", attempt.name, headers) as transaction:
                yield
                _set_status(transaction, "ok")

    def flush(self) -> None:
        sentry_sdk.flush(FLUSH)


def _trace_here() -> dict[str, str]:
    """What continues the trace elsewhere; empty without Sentry."""
    if not sentry_sdk.get_client().is_active():
        return {}
    headers = {
        "sentry-trace": sentry_sdk.get_traceparent(),
        "baggage": sentry_sdk.get_baggage(),
    }
    return {name: value for name, value in headers.items() if value}


def _is_traced() -> bool:
    """Whether a transaction is open here, or a span of one."""
    get = sentry_sdk.traces if _streams() else sentry_sdk
    return get.get_current_span() is not None


def _span(what: str, name: str, **more: Any) -> Any:
    """A part of the transaction that is open here."""
    if _streams():
        about: Any = {"sentry.op": f"wsgi_defer.{what}", "sentry.origin": ORIGIN}
        return sentry_sdk.traces.start_span(name, about, **more)
    return sentry_sdk.start_span(op=f"wsgi_defer.{what}", name=name, origin=ORIGIN)


def _transaction(what: str, name: str, headers: Mapping[str, str]) -> Any:
    """One that continues the trace of these headers; a new one if there are none."""
    if _streams():
        sentry_sdk.traces.continue_trace(dict(headers))
        return _span(what, name, parent_span=None)
    transaction = sentry_sdk.continue_trace(
        dict(headers), op=f"wsgi_defer.{what}", name=name,
        source=TransactionSource.TASK, origin=ORIGIN,
    )  # fmt: skip
    return sentry_sdk.start_transaction(transaction)


def _streams() -> bool:
    """Whether the app has chosen spans without transactions, which Sentry has, too."""
    return has_span_streaming_enabled(sentry_sdk.get_client().options)


def _set_status(span: Any, status: str) -> None:
    if isinstance(span, StreamedSpan):
        span.status = "ok" if status == "ok" else "error"
    else:
        span.set_status(status)


def _capture(record: logging.LogRecord) -> bool:
    """A filter of our log that sends each failure.

    In a filter, it comes before Sentry's integration with ``logging``, whose event of
    the same exception is then dropped by Sentry, as it has seen that exception.
    """
    if record.exc_info and record.levelno >= logging.ERROR:
        with capture_internal_exceptions():
            _send(record)
    return True


def _send(record: logging.LogRecord) -> None:
    client = sentry_sdk.get_client()
    if not client.is_active():
        return
    event, hint = event_from_exception(
        record.exc_info,  # type: ignore[arg-type]
        client_options=client.options,
        mechanism={"type": PACKAGE, "handled": False},
    )
    hint["log_record"] = record
    event["level"] = "error"
    event["logger"] = record.name
    event["logentry"] = {"message": record.getMessage()}
    for error in event.get("exception", {}).get("values", ()):
        for frame in (error.get("stacktrace") or {}).get("frames", ()):
            if str(frame.get("module")).partition(".")[0] == PACKAGE:
                frame.pop("vars", None)  # they have the arguments
    sentry_sdk.capture_event(event, hint=hint)
