"""``python -m wsgi_defer.jobs``: run the workers, and see what became of jobs."""

from __future__ import annotations

import sys

from ._command.arguments import parser
from ._command.main import main

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(main())
