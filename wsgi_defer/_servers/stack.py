"""What the server's own frames on the stack tell.

A middleware outside may have put its own ``start_response`` in place of the server's,
as those of Sentry and New Relic do. The server is on the stack all the same.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any

# How a server calls the end of a body, where that is ours or a middleware's.
CLOSES = ("close", "end_once")


def local_of(package: str, name: str) -> Any:
    """The variable of that name in the innermost frame of the package that has it."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if (name in code.co_varnames or name in code.co_freevars) and module_of(
            frame
        ).startswith(package):
            return frame.f_locals.get(name)
        frame = frame.f_back
    return None


def is_closed_by(package: str) -> bool:
    """Tell whether the server itself closes the body, maybe through the ``close()`` of
    a middleware.

    A middleware outside of this one that is a generator closes what it has read to the
    end. The server still has to send what that adds, and the end of a chunked body.
    """
    frame: FrameType | None = sys._getframe(1)
    name = ""
    while frame is not None and not module_of(frame).startswith(package):
        name, frame = frame.f_code.co_name, frame.f_back
    return frame is not None and name in CLOSES


def module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__"))
