"""What logs call a request."""

from __future__ import annotations

import itertools
import os
import re

# No line break that would forge a line of the log, and nothing too long for the ledger.
_looks_like_one = re.compile(r"[\w.:+/=@-]{1,63}", re.ASCII).fullmatch
_numbers = itertools.count(1)


def checked_id(given: str | None) -> str:
    """The id that a proxy, or anybody, gave it; if that is none, one made here."""
    if given is None or not _looks_like_one(given):
        return f"{os.getpid()}-{next(_numbers)}"
    return given
