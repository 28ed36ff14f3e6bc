"""Each Python block of the pages is right about names, parameters and types of ours.

What a page tells in prose, such as an app that a block adds to, mypy does not know:
names that are not defined are let through. Other tests of this folder run the blocks.
"""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from .test_pages import DOCS, HOME, blocks

pytest.importorskip("mypy")

# These run as they are, and use types of others' that differ from PEP 3333's.
RUN = {"frameworks", "testing"}
NAMES = {str(path.relative_to(DOCS).with_suffix("")) for path in DOCS.glob("**/*.md")}
UNKNOWN = ["name-defined", "has-type", "import-not-found", "import-untyped", "no-redef"]


def test_blocks(tmp_path):
    """All in one run of mypy, a file for each."""
    for page in {"README.md"} | NAMES - RUN:
        for number, code in enumerate(blocks(page), 1):
            name = re.sub(r"\W", "_", page)
            (tmp_path / f"{name}_{number}.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=", "--no-error-summary",
         "--check-untyped-defs", "--follow-imports=silent", "--python-version=3.10",
         f"--cache-dir={HOME / '.mypy_cache' / 'pages'}",
         *[f"--disable-error-code={each}" for each in UNKNOWN], str(tmp_path)],
        capture_output=True, text=True, check=False, cwd=HOME, timeout=300,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("", 0)
