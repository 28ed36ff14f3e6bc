"""The observer that keeps a call in the trace of its request, under Datadog's tracer.

It imports nothing: where ``ddtrace`` is in use, it has been imported already.
"""

from __future__ import annotations

import sys
from contextvars import Context
from typing import Any

from ._observer import Call, Observer, Scope


class TraceKeeper(Observer):
    """Has the call's context point to the trace, not to the span that was open.

    That span has ended when the call runs. The tracer then ignores it, and each query
    of the call would begin a trace of its own. ``ddtrace`` does the same for futures.
    """

    def queued(self, call: Call, scope: Scope) -> None:
        trace = tracer().current_trace_context()
        if trace is None:
            return
        trace = trace.copy(trace.trace_id, trace.span_id)
        trace._reactivate = True  # after each span of the call, not after the first one
        context = call.context or Context()  # None if it was told of its end meanwhile
        context.run(tracer().context_provider.activate, trace)


def tracer() -> Any:
    """Datadog's; None where it is not in use."""
    module = sys.modules.get("ddtrace.trace") or sys.modules.get("ddtrace")
    return getattr(module, "tracer", None)
