"""The page about caches tells the truth: its blocks run, in their order."""

from __future__ import annotations

import re
import tempfile
import time
from pathlib import Path

import pytest

from wsgi_defer import deferring

from ..helpers.programs import HOME

PAGE = Path(HOME, "docs", "cache.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A directory for temporary files of their own."""
    home = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(home))
        yield home


@pytest.fixture(scope="module")
def names(home):
    """What all blocks together define."""
    pytest.importorskip("redis")
    names = {"__name__": "page"}
    for block in BLOCKS:
        code = block.replace("/tmp/shop-cache", str(home / "cache"))
        exec(compile(code, "cache.md", "exec"), names)
    return names


def test_all_blocks_are_run(names):
    """None is missed because of its head."""
    assert len(BLOCKS) == PAGE.count("```") // 2 == 7


def test_the_table(names, monkeypatch):
    """Fresh, stale and too old."""
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    loads = []
    names["load_prices"] = lambda region: loads.append(region) or {"tea": len(loads)}
    cache = names["cache"]
    cache.clear()

    def view(age=None):
        if age is not None:
            value = cache.get("prices:eu")[2]
            cache.set("prices:eu", ("wsgi_defer", time.time() - age, value))
        with deferring() as scope:
            return names["view"](), scope.registered

    assert view() == ("tea costs 1", 0)
    assert view(4) == ("tea costs 1", 0)
    assert view(6) == ("tea costs 1", 1)
    assert view() == ("tea costs 2", 0)
    assert view(61) == ("tea costs 3", 0)


def test_the_decorator(names):
    """Keys of its own, and those of the user."""
    assert names["basket"]({"id": 4711}) == ["tea"]
    assert names["cache"].get("basket:4711")[2] == ["tea"]


def test_once(names, capsys):
    """The second call is skipped, and so is the one in all the cluster."""
    names["clean_up"].__globals__["print"] = print
    [block] = [block for block in BLOCKS if '"clean up", 30)\n' in block]
    exec(block.replace("clean up", "another name"), names)
    assert capsys.readouterr().out == "cleaning up\n"
