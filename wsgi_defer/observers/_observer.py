"""What an observer is: an object that hears what becomes of each call."""

from __future__ import annotations

from typing import Any

# ``wsgi_defer.Call`` and ``wsgi_defer.Scope``, by which you may annotate your methods.
# They are made in ``_calls``, which imports this module.
Call = Any
Scope = Any


class Observer:
    """Hears what becomes of each call. Override the methods that you want to hear.

    Every call is ``queued``, and ends once: ``finished``, ``failed``, ``skipped`` or
    ``lost``. If the process is killed first, it has no end, and gunicorn's master names
    it. A method is called in the thread where the event happens, and should be quick.
    If it raises, that is logged, the first time. When a server drops a response, the
    garbage collector may call it, at any line, so use an ``RLock`` if you need a lock.
    Calls of ``before_response()`` are reported, too.

    ``started``, and then ``finished`` or ``failed``, run in the ``contextvars`` context
    of the call, and in its thread. It is the call's alone, and ends with it. So what
    ``started`` sets in a context variable is set for the call and whatever it runs, for
    the log and the other observers; it need not be reset. ``lost``, ``skipped``,
    ``slow`` and ``overran`` run in a copy of that context, maybe in another thread, as
    the call may still be running. ``queued`` runs in the code that defers the call.

    The scope describes the request: ``scope.request_id``, and once the response has
    ended, ``scope.outcome`` with its status, ``delivered`` and ``duration``; before
    that it is None. The call has ``label``, ``origin``, ``waited`` and ``ran``.
    """

    def queued(self, call: Call, scope: Scope) -> None:
        """It was registered. Its options, such as the name, may be set later."""

    def started(self, call: Call, scope: Scope) -> None:
        """It starts to run."""

    def finished(self, call: Call, scope: Scope) -> None:
        """It has returned."""

    def failed(self, call: Call, scope: Scope, error: BaseException) -> None:
        """It raised ``error``, or its ``when()`` function did."""

    def skipped(self, call: Call, scope: Scope, why: str) -> None:
        """It did not run, because its options or the outcome said so."""

    def lost(self, call: Call, scope: Scope, why: str) -> None:
        """It did not run, or not to its end: the process ends, or is full."""

    def slow(self, call: Call, scope: Scope, seconds: float, stack: str) -> None:
        """It has run for ``seconds``, more than ``slow_after``, and keeps running."""

    def overran(self, call: Call, scope: Scope, seconds: float, stack: str) -> None:
        """It keeps running past its time limit: nothing could end it, or not yet."""


EVENTS = tuple(name for name in vars(Observer) if not name.startswith("_"))
