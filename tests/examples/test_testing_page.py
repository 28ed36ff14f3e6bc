"""The page about tests tells the truth: its tests run, and are green."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from ..helpers.programs import HOME

PAGE = Path(HOME, "docs", "testing.md").read_text()


def test_the_page(tmp_path):
    """Each block is a module of its own; ``wsgi_defer = strict`` fails the one test
    that lets a call fail."""
    shop, *tests = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert shop.startswith("# shop.py\n")
    (tmp_path / "shop.py").write_text(shop)
    for number, block in enumerate(tests):
        (tmp_path / f"test_block_{number}.py").write_text(block)
    assert re.search(r"=+ 7 passed", run(tmp_path))
    [ini] = re.findall(r"```ini\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "pytest.ini").write_text(ini)
    out = run(tmp_path)
    assert "2 failed, 5 passed" in out
    assert "shop.send_mail raised ConnectionError: no mail server here" in out
    assert "import_orders was lost: the process was told to stop" in out


def run(folder):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "wsgi_defer.pytest_plugin",
         "-p", "no:cacheprovider"], cwd=folder,
        env={**os.environ, "PYTHONPATH": HOME, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr
