"""What becomes of deferred calls when their worker is stopped, killed or stuck."""

from __future__ import annotations

CALLS = ("first-call", "second-call", "third-call")
BODY = b"three calls are to follow\n"
