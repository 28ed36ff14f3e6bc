"""What type checkers say about good and bad uses of the package."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from wsgi_defer import DeferredCall

ROOT = Path(__file__).parents[2]
USES = Path(__file__).with_name("typing_uses.py")
WRONG = {
    number
    for number, line in enumerate(USES.read_text().splitlines(), 1)
    if line.endswith("# wrong")
}


def mypy(tmp_path):
    """Its errors, by line."""
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed")
    (tmp_path / "mypy.ini").write_text("[mypy]\nstrict = true\n")
    said = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", tmp_path / "mypy.ini",
         "--cache-dir", ROOT / ".mypy_cache" / "uses", "--no-error-summary",
         "--follow-imports", "silent", USES],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    found = re.findall(r"^(\S+?):(\d+): error: (.*)", said.stdout, re.MULTILINE)
    assert found, said
    assert {Path(file).name for file, _, _ in found} == {USES.name}, said.stdout
    return {int(line): text for _, line, text in found}


def pyright(tmp_path):
    """Its errors, by line. It is here only if somebody has installed it."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    program = shutil.which("pyright", path=path)
    if program is None:
        pytest.skip("pyright is not installed: pip install 'pyright[nodejs]'")
    shutil.copy(USES, tmp_path)  # it takes no paths outside of its project
    settings = {"typeCheckingMode": "strict", "extraPaths": [str(ROOT)]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    said = subprocess.run(
        [program, "--outputjson", "--pythonpath", sys.executable, "-p", tmp_path],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    return {
        each["range"]["start"]["line"] + 1: each["message"]
        for each in json.loads(said.stdout)["generalDiagnostics"]
        if each["severity"] == "error"
    }


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_uses(checker, tmp_path):
    """It objects to each wrong one, and to nothing else."""
    errors = checker(tmp_path)
    assert {line: errors[line] for line in errors.keys() - WRONG} == {}
    assert WRONG - errors.keys() == set()


def test_at_run_time():
    """An annotation may say it, and costs no class of ours anything."""
    assert DeferredCall[int].__origin__ is DeferredCall
    assert "typing" not in {kind.__module__ for kind in DeferredCall.__mro__}
