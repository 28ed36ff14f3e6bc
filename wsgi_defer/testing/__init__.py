"""For tests: what is deferred, and what becomes of it.

``captured()``, ``eager()`` and ``strict()`` are blocks. They hold for all threads of
the process, such as those of a live server, and not for processes that it forks.
Blocks may be nested: the innermost decides, and those around it do not hear of its
calls. A request belongs to the block inside which it ends. ``exchange()`` drives an
app as a server does.

With pytest, there are fixtures, too: ``deferred`` and ``strict_deferred``.
"""

from ._captured import Captured, captured
from ._eager import eager
from ._exchange import Reply, exchange
from ._record import CallRecord
from ._strict import DeferredCallsFailed, Strict, strict

__all__ = [
    "CallRecord",
    "Captured",
    "DeferredCallsFailed",
    "Reply",
    "Strict",
    "captured",
    "eager",
    "exchange",
    "strict",
]
