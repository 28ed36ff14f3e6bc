"""The observer that is always there: it writes the log ``wsgi_defer``."""

from __future__ import annotations

from .._runtime import events, report
from .._runtime.events import Facts
from ._observer import Call, Observer, Scope


class LoggingObserver(Observer):
    """Writes to the log ``wsgi_defer``, and never the arguments of a call.

    Calls that have finished and skipped ones are logged at DEBUG, slow ones at WARNING,
    failed and lost ones at ERROR. An exception is logged with its message and
    traceback, as it is for a view. Each record has the facts as fields.
    """

    def finished(self, call: Call, scope: Scope) -> None:
        facts = _facts(call, scope)
        report.log(
            events.FINISHED, "%s call %s finished in %.3f s; %s",
            call.kind, call.label, call.ran, _where(facts), facts=facts,
        )  # fmt: skip

    def failed(self, call: Call, scope: Scope, error: BaseException) -> None:
        if not call.handled:
            self._log_failure(call, scope, error)

    def _log_failure(self, call: Call, scope: Scope, error: BaseException) -> None:
        # Once for each failure, however many calls pass it on.
        first = call.first_to_fail()
        if not first.logged:
            facts = _facts(first, scope)
            report.failure(
                events.FAILED, error, "%s call %s failed; %s",
                call.kind, call.chain, _where(facts), facts=facts,
            )  # fmt: skip
            first.logged = True

    def _log_what_it_would_have_handled(self, call: Call, scope: Scope) -> None:
        before = call.before
        error = None if before is None else before.unhandled()
        if error is not None:
            self._log_failure(before, scope, error)

    def skipped(self, call: Call, scope: Scope, why: str) -> None:
        self._log_what_it_would_have_handled(call, scope)
        if report.heard(events.SKIPPED):
            facts = _facts(call, scope)
            facts["why"] = why
            report.log(
                events.SKIPPED, "%s call %s skipped: %s; %s",
                call.kind, call.label, why, _where(facts), facts=facts,
            )  # fmt: skip

    def lost(self, call: Call, scope: Scope, why: str) -> None:
        self._log_what_it_would_have_handled(call, scope)
        facts = _facts(call, scope)
        facts["why"] = why
        log_lost(facts)

    def slow(self, call: Call, scope: Scope, seconds: float, stack: str) -> None:
        facts = _facts(call, scope)
        facts["ran"] = seconds
        report.log(
            events.SLOW, "%s call %s is slow, it has run for %.1f s; %s\n%s",
            call.kind, call.label, seconds, _where(facts), stack, facts=facts,
        )  # fmt: skip

    def overran(self, call: Call, scope: Scope, seconds: float, stack: str) -> None:
        facts = _facts(call, scope)
        facts["ran"] = seconds
        report.log(
            events.OVERRAN,
            "%s call %s is still running past its time limit, after %.1f s; %s\n%s",
            call.kind, call.label, seconds, _where(facts), stack, facts=facts,
        )  # fmt: skip


def log_lost(facts: Facts) -> None:
    """Say that a call is lost, and why: in its own process, or in gunicorn's master,
    which does not know where it was deferred."""
    ran = facts.get("ran")
    while_it_ran = "" if ran is None else f" while it ran ({ran:.1f} s)"
    where = [facts["why"], _where(facts)]
    report.log(
        events.LOST, "%s call %s lost%s: %s",
        facts["kind"], facts["call"], while_it_ran, "; ".join(filter(None, where)),
        facts=facts,
    )  # fmt: skip


def _facts(call: Call, scope: Scope) -> Facts:
    outcome = scope.outcome
    return {
        "call": call.label,
        "kind": call.kind,
        "origin": call.origin,
        "request_id": scope.request_id or None,
        "status": None if outcome is None else outcome.status,
        "waited": call.waited,
        "ran": call.ran,
    }


def _where(facts: Facts) -> str:
    request, origin = facts.get("request_id"), facts.get("origin")
    parts = [request and f"request {request}", origin and f"from {origin}"]
    return "; ".join(filter(None, parts))
