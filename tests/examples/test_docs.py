"""The documentation builds, and every link and name in it leads somewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("sphinx", reason="make docs installs it")
pytest.importorskip("furo")

DOCS = Path(__file__).parents[2] / "docs"


def test_pages(tmp_path):
    """Without a warning: of a dead link, a heading that is not there, an unknown name,
    or a page that no other leads to."""
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning",
         "--keep-going", "--doctree-dir", tmp_path / "doctrees", DOCS,
         tmp_path / "html"],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert (done.stderr, done.returncode) == ("", 0)
    assert (tmp_path / "html" / "searchindex.js").exists()
    shown = (tmp_path / "html" / "reference" / "core.html").read_text()
    assert 'id="wsgi_defer.defer"' in shown
