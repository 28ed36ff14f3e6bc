"""Each Python block of the pages is right about names, parameters and types of ours.

What a page tells in prose, such as an app that a block adds to, mypy does not know:
names that are not defined are let through. Other tests of this folder run the blocks.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy")

HOME = Path(__file__).parents[2]
# These run as they are, and use types of others' that differ from PEP 3333's.
RUN = {"frameworks.md", "testing.md"}
PAGES = [HOME / "README.md"] + [
    page for page in sorted((HOME / "docs").glob("**/*.md")) if page.name not in RUN
]
UNKNOWN = ["name-defined", "has-type", "import-not-found", "import-untyped", "no-redef"]


def test_blocks(tmp_path):
    """All in one run of mypy, a file for each."""
    for page in PAGES:
        blocks = re.findall(
            r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.M
        )
        for number, code in enumerate(blocks, 1):
            name = re.sub(r"\W", "_", str(page.relative_to(HOME)))
            (tmp_path / f"{name}_{number}.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=", "--no-error-summary",
         "--check-untyped-defs", "--follow-imports=silent", "--python-version=3.10",
         f"--cache-dir={HOME / '.mypy_cache' / 'pages'}",
         *[f"--disable-error-code={each}" for each in UNKNOWN], str(tmp_path)],
        capture_output=True, text=True, check=False, cwd=HOME, timeout=300,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("", 0)
