"""The observer that is always there: it writes the log ``wsgi_defer``."""

from __future__ import annotations

import logging

from .._runtime import report
from ._observer import Call, Observer, Scope


class LoggingObserver(Observer):
    """Writes to the log ``wsgi_defer``, and never the arguments of a call.

    Skipped calls are logged at DEBUG, slow ones at WARNING, failed and lost ones at
    ERROR. An exception is logged with its message and traceback, as it is for a view.
    """

    def failed(self, call: Call, scope: Scope, error: BaseException) -> None:
        if not call.handled:
            self._log_failure(call, scope, error)

    def _log_failure(self, call: Call, scope: Scope, error: BaseException) -> None:
        # Once for each failure, however many calls pass it on.
        first = call.first_to_fail()
        if not first.logged:
            report.failure(
                error, "%s call %s failed; %s",
                call.kind, call.chain, _where(first, scope),
            )  # fmt: skip
            first.logged = True

    def _log_what_it_would_have_handled(self, call: Call, scope: Scope) -> None:
        before = call.before
        error = None if before is None else before.unhandled()
        if error is not None:
            self._log_failure(before, scope, error)

    def skipped(self, call: Call, scope: Scope, why: str) -> None:
        self._log_what_it_would_have_handled(call, scope)
        if report.logger.isEnabledFor(logging.DEBUG):
            report.log(
                logging.DEBUG, "%s call %s skipped: %s; %s",
                call.kind, call.label, why, _where(call, scope),
            )  # fmt: skip

    def lost(self, call: Call, scope: Scope, why: str) -> None:
        self._log_what_it_would_have_handled(call, scope)
        ran = "" if call.ran is None else f" while it ran ({call.ran:.1f} s)"
        report.log(
            logging.ERROR, "%s call %s lost%s: %s; %s",
            call.kind, call.label, ran, why, _where(call, scope),
        )  # fmt: skip

    def slow(self, call: Call, scope: Scope, seconds: float, stack: str) -> None:
        report.log(
            logging.WARNING, "%s call %s is slow, it has run for %.1f s; %s\n%s",
            call.kind, call.label, seconds, _where(call, scope), stack,
        )  # fmt: skip

    def overran(self, call: Call, scope: Scope, seconds: float, stack: str) -> None:
        report.log(
            logging.WARNING,
            "%s call %s is still running past its time limit, after %.1f s; %s\n%s",
            call.kind, call.label, seconds, _where(call, scope), stack,
        )  # fmt: skip


def _where(call: Call, scope: Scope) -> str:
    request = scope.request_id
    return (
        f"request {request}; from {call.origin}" if request else f"from {call.origin}"
    )
