"""OpenTelemetry: a span for each call, and each attempt of a job, and two histograms.

::

    from wsgi_defer.observers.opentelemetry import Tracing

    Defer(app, observers=[Tracing()])
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager

from opentelemetry import context, metrics, propagate, trace
from opentelemetry.context import Context
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider

from ._job_observer import JobAttempt, JobObserver
from ._observer import Call, Observer, Scope

# Upper bounds of the buckets, in seconds. OpenTelemetry's own for requests, and more.
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5,
          10.0, 30.0, 60.0, 300.0)  # fmt: skip
MOST_NAMES = 128  # of calls, in metrics; all others are OTHER
OTHER = "other"
FLUSH = 2000  # milliseconds for what waits to be sent, where a process ends at once


class Tracing(Observer, JobObserver):
    """Makes a span of each call and of each attempt of a job. Thread-safe.

    The span of a call is current while the call runs. Its name is the call's label. It
    begins a trace of its own, and is linked to the span that was current where the call
    was deferred, as that has ended. A call that runs while the request still waits for
    it is a child: one of ``before_response()``, or one that ``result()`` runs early.

    If the span of the request is still open when the first call starts, this ends it:
    then an instrumentation stands outside of the middleware, and would end it after the
    calls. That works if the span was the current one where the call was deferred.

    Attributes are ``code.file.path``, ``code.line.number``, ``wsgi_defer.waited`` in
    seconds, ``wsgi_defer.request_id`` and ``wsgi_defer.result``: "finished", "failed"
    or "lost". A failure is recorded with its traceback. Arguments are not.

    Histograms, in seconds: ``wsgi_defer.call.duration`` and ``wsgi_defer.call.wait``,
    by ``wsgi_defer.call``, which is the label, and ``wsgi_defer.result``.

    :param tracer_provider: by default, the global one, also if it is set later.
    :param meter_provider: the same, for the histograms.
    :param child: True makes spans of calls and of attempts children of that span, in
        its trace, instead of linked ones.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        child: bool = False,
    ) -> None:
        self._child = child
        self._providers = tracer_provider, meter_provider
        self._tracer = trace.get_tracer("wsgi_defer", tracer_provider=tracer_provider)
        meter = metrics.get_meter("wsgi_defer", meter_provider=meter_provider)
        self._duration = meter.create_histogram(
            "wsgi_defer.call.duration", "s", "How long deferred calls ran.",
            explicit_bucket_boundaries_advisory=BOUNDS,
        )  # fmt: skip
        self._wait = meter.create_histogram(
            "wsgi_defer.call.wait", "s", "How long deferred calls waited to start.",
            explicit_bucket_boundaries_advisory=BOUNDS,
        )  # fmt: skip
        self._open: dict[Call, Span] = {}
        self._names: set[str] = set()

    def started(self, call: Call, scope: Scope) -> None:
        self._open[call] = span = self._begin(call, scope)
        # Not detached: the context is the call's own, and ends with it.
        context.attach(trace.set_span_in_context(span))

    def _begin(self, call: Call, scope: Scope) -> Span:
        request_is_over = scope.answers and scope.outcome is not None
        if request_is_over:
            _end_request(trace.get_current_span())
        request = scope.request_id
        path, _, line = call.origin.rpartition(":")
        return self._start_span(
            call.label,
            context.get_current(),
            child=self._child or not request_is_over,
            attributes={
                "code.file.path": path,
                "code.line.number": int(line),
                "wsgi_defer.waited": call.waited,
                **({"wsgi_defer.request_id": request} if request else {}),
            },
        )

    def _start_span(
        self,
        name: str,
        parent: Context,
        *,
        child: bool,
        attributes: Mapping[str, str | float],
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> Span:
        before = trace.get_current_span(parent).get_span_context()
        links = None
        if not child:
            parent = trace.set_span_in_context(trace.INVALID_SPAN, parent)
            links = [trace.Link(before)] if before.is_valid else None
        return self._tracer.start_span(
            name, parent, kind, attributes=attributes, links=links
        )

    def finished(self, call: Call, scope: Scope) -> None:
        self._end(call, "finished")

    def failed(self, call: Call, scope: Scope, error: BaseException) -> None:
        if call not in self._open:  # it did not start: its when() function has raised
            self._open[call] = self._begin(call, scope)
        try:
            _note_failure(self._open[call], error)
        finally:  # the error's own __str__() may raise
            self._end(call, "failed")

    def lost(self, call: Call, scope: Scope, why: str) -> None:
        if call in self._open:
            self._open[call].set_status(Status(StatusCode.ERROR, why))
            self._end(call, "lost")

    def _end(self, call: Call, result: str) -> None:
        span = self._open.pop(call, None)
        if span is None:  # this observer was added while it ran
            return
        span.set_attribute("wsgi_defer.result", result)
        labels = {"wsgi_defer.call": self._name(call), "wsgi_defer.result": result}
        around = trace.set_span_in_context(span)  # for exemplars
        self._wait.record(call.waited, labels, around)
        self._duration.record(call.ran or 0.0, labels, around)
        span.end()

    def _name(self, call: Call) -> str:
        """The label, as long as there are few: each makes a time series of its own."""
        label: str = call.label
        if label not in self._names:
            if len(self._names) >= MOST_NAMES:
                return OTHER
            self._names.add(label)
        return label

    def enqueuing(self, name: str, carrier: MutableMapping[str, str]) -> None:
        """By the global propagator, which is W3C's ``traceparent`` by default."""
        propagate.inject(carrier)

    @contextmanager
    def attempting(
        self, attempt: JobAttempt, carrier: Mapping[str, str]
    ) -> Iterator[None]:
        """A span of the kind CONSUMER, linked to the one that enqueued the job."""
        span = self._start_span(
            attempt.name,
            propagate.extract(carrier),
            child=self._child,
            attributes={
                "wsgi_defer.job_id": attempt.job_id,
                "wsgi_defer.attempt": attempt.number,
            },
            kind=SpanKind.CONSUMER,
        )
        result = "finished"
        try:
            with trace.use_span(
                span, record_exception=False, set_status_on_exception=False
            ):
                yield
        except BaseException as error:
            result = "failed" if attempt.last else "retried"
            _note_failure(span, error)
            raise
        finally:
            span.set_attribute("wsgi_defer.result", result)
            span.end()

    def flush(self) -> None:
        traces, meters = self._providers
        for provider in (
            traces or trace.get_tracer_provider(),
            meters or metrics.get_meter_provider(),
        ):
            flush = getattr(provider, "force_flush", None)  # the SDK's have it
            if flush is not None:
                flush(FLUSH)


def _note_failure(span: Span, error: BaseException) -> None:
    span.record_exception(error)
    kind = type(error).__name__
    span.set_status(Status(StatusCode.ERROR, f"{kind}: {error}"))


def _end_request(span: Span) -> None:
    """End the span of a request that has its response, if it is that and still open."""
    if span.is_recording() and getattr(span, "kind", None) is SpanKind.SERVER:
        span.end()
        # For the instrumentation, which does so, too: the SDK would log a warning.
        span.end = _ended  # type: ignore[method-assign]


def _ended(end_time: int | None = None) -> None:
    """It has ended already."""
