"""The observer that traces calls with Datadog's tracer.

It imports nothing: where ``ddtrace`` is in use, it has been imported already.
"""

from __future__ import annotations

import sys
from contextvars import Context
from typing import Any

from ._observer import Call, Observer, Scope


class TraceKeeper(Observer):
    """Makes a span of each call, ``wsgi_defer.call``, in the trace that deferred it.

    Its parent is the span at that line, which has often ended when the call runs. The
    tracer then ignores it, and each query of the call would begin a trace of its own.
    So the call's context points to the trace; ``ddtrace`` does the same for futures.
    """

    def __init__(self) -> None:
        self._open: dict[Call, Any] = {}

    def queued(self, call: Call, scope: Scope) -> None:
        trace = tracer().current_trace_context()
        if trace is None:
            return
        trace = trace.copy(trace.trace_id, trace.span_id)
        trace._reactivate = True  # after each span of the call, not after the first one
        context = call.context or Context()  # None if it was told of its end meanwhile
        context.run(tracer().context_provider.activate, trace)

    def started(self, call: Call, scope: Scope) -> None:
        span = tracer().trace(
            "wsgi_defer.call", resource=call.label, span_type="worker"
        )
        span.set_tag("wsgi_defer.origin", call.origin)
        span.set_tag("wsgi_defer.request_id", scope.request_id)
        span.set_metric("wsgi_defer.waited", call.waited)
        self._open[call] = span

    def finished(self, call: Call, scope: Scope) -> None:
        self._end(call)

    def failed(self, call: Call, scope: Scope, error: BaseException) -> None:
        span = self._open.get(call)
        if span is not None:
            span.set_exc_info(type(error), error, error.__traceback__)
        self._end(call)

    def lost(self, call: Call, scope: Scope, why: str) -> None:
        span = self._open.get(call)
        if span is not None:
            span.error = 1
            span.set_tag("error.message", f"lost: {why}")
        self._end(call)

    def _end(self, call: Call) -> None:
        span = self._open.pop(call, None)
        if span is not None:  # it has started
            span.finish()


def tracer() -> Any:
    """Datadog's; None where it is not in use."""
    module = sys.modules.get("ddtrace.trace") or sys.modules.get("ddtrace")
    return getattr(module, "tracer", None)
