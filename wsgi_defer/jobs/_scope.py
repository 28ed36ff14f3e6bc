"""The scope of a job's handler."""

from __future__ import annotations

from .._calls.scope import Scope


class HandlerScope(Scope):
    """Its calls run when the attempt has succeeded, before the job counts as done.

    If the handler raises, only those run that are for failures.
    """
