"""Whether DBOS can use the SQLite of this Python."""

import sqlite3
import sys

import pytest

with_sqlite = pytest.mark.skipif(
    sys.version_info >= (3, 12) and sqlite3.sqlite_version_info < (3, 42),
    reason=f"DBOS needs SQLite 3.42 with this Python, and has {sqlite3.sqlite_version}",
)
