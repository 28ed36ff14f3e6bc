"""How a response ended. Deferred calls can depend on it."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple


class Outcome(NamedTuple):
    """How the response ended. Immutable, so any thread may read it.

    ``status`` is the final HTTP status as a number; ``None`` without a response, as
    in ``deferring()``.
    ``error`` is what the app raised, in its call, in its body or in the body's
    ``close()``; ``None`` if it raised nothing.
    ``delivered`` is False if the server stopped before the end of the body: the client
    disconnected, or sending failed. True means that the server took the last byte; what
    the network did with it is not known here. It is also True for a file that uWSGI,
    bjoern or mod_wsgi sends itself: they do not tell how far they came. A response
    without a body (to HEAD, or with status 204 or 304) is delivered if the server
    raised nothing.
    ``duration`` is how long the request took, in seconds, from the app's start to the
    last byte that the server took; ``None`` without a request.
    """

    status: int | None = None
    error: BaseException | None = None
    delivered: bool = True
    duration: float | None = None

    @property
    def ok(self) -> bool:
        """True for a status below 400, or none, from an app that did not raise."""
        return self.error is None and (self.status is None or self.status < 400)


# Of four items. The call of the class itself costs as much as two calls of a function.
new_outcome = partial(tuple.__new__, Outcome)


def always(outcome: Outcome) -> bool:
    """For ``DeferredCall.always()``."""
    return True


def not_ok(outcome: Outcome) -> bool:
    """For ``DeferredCall.on_failure()``."""
    return not outcome.ok
