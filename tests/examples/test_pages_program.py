"""What the pages show of processes."""

from __future__ import annotations

import sys

from wsgi_defer import deferring, pool

from ..helpers.client import get, text_app
from ..helpers.waiting import until
from .test_pages import block


def test_detach(tmp_path, monkeypatch):
    """The command runs where it should, and its output is in the log."""
    monkeypatch.chdir(tmp_path)
    program = tmp_path / "bin" / "convert"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable} -IS\nimport os, sys\n"
                       "print(os.getcwd(), sys.argv[1:], flush=True)")  # fmt: skip
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    with deferring():
        exec(block("commands", "detach"), {"source": "a.png", "folder": program.parent})
    said = f"{program.parent} {['a.png', 'preview.png']}\n"
    log = program.parent / "log"
    until(lambda: log.read_text() == said)


def test_pools():
    """The three pools are configured, and the page has all that it asked for."""
    results = []
    namespace = {
        "app": text_app(lambda: results.append(namespace["page"](7))),
        "fetch_stock": lambda item: item + 1,
        "fetch_price": lambda item: item + 2,
        "draw": abs,  # which can be pickled
    }
    exec(block("pools", "gather("), namespace)
    with deferring(pools=namespace["app"].options.pools):
        pool("cpu").submit(abs, 0).result()  # to start a child may take its 5 seconds
    get(namespace["app"])
    assert results == [(9, 8, 7)]
