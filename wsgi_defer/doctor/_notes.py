"""What the doctor's calls note, where each worker of the machine finds it."""

from __future__ import annotations

import json
import os
import re
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

KEPT = 200  # requests of which there are notes, the last ones
is_key = re.compile("[0-9a-f]{16}").fullmatch


def write(key: str, event: str, **facts: object) -> None:
    """Add a line to the notes of that request. Raises ``OSError``."""
    with (_directory() / key).open("a") as file:
        file.write(json.dumps({"event": event, **facts}) + "\n")


def read(key: str) -> list[dict[str, Any]]:
    """The lines of that request, so far."""
    try:
        text = (_directory() / key).read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def drop_old() -> None:
    """Remove all but the last ones."""
    ages = {}
    for path in _directory().iterdir():
        with suppress(FileNotFoundError):  # another worker was quicker
            ages[path] = path.stat().st_mtime
    for path in sorted(ages, key=ages.__getitem__)[:-KEPT]:
        path.unlink(missing_ok=True)


def _directory() -> Path:
    """The same for all processes of this user; nobody else can look into it."""
    path = Path(tempfile.gettempdir(), f"wsgi_defer-doctor-{os.geteuid()}")
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    private = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o077
    if not private or found.st_uid != os.geteuid():
        raise PermissionError(
            f"{path} is not a directory of this user alone, so the doctor does not "
            "write there; remove it"
        )
    return path
