"""The cells of the table that are not right, each with its one reason.

A key names set-ups, shapes and protocols, ``*`` stands for any. Every cell here is
asserted to be wrong in these words: one that becomes right must be taken off.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import lru_cache

# Reasons that begin so are proven, too: the same request with nothing deferred does it.
OWN = "with nothing deferred, too: "

UNREACHABLE: dict[tuple[str, str, str], tuple[str, str]] = {}

# Wrong only because the library has no part for that server yet. To be emptied.
PENDING: dict[tuple[str, str, str], tuple[str, str]] = {}


@lru_cache(maxsize=None)
def expected(setup, shape, protocol):
    """The fault words of that cell and the reason; ``("ok", "")`` for most cells."""
    for faults in (UNREACHABLE, PENDING):
        for (setups, shapes, protocols), found in faults.items():
            if (
                matches(setup, setups)
                and matches(shape, shapes)
                and matches(protocol, protocols)
            ):
                return found
    return ("ok", "")


def matches(name, patterns):
    """Whether one of the patterns is the name's."""
    return any(fnmatchcase(name, pattern) for pattern in patterns.split())
