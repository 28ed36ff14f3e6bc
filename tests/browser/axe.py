"""axe-core, the rules of accessible pages, run inside a page."""

from __future__ import annotations

import json
from pathlib import Path

import axe_core_python

SCRIPT = Path(axe_core_python.__file__).with_name("axe.min.js").read_text()


def complaints(page):
    """What breaks a rule of WCAG 2.1 A or AA, or a good habit: rules and elements.

    The script comes by the debugger, which no policy of the page stops.
    """
    page.run(SCRIPT + "; null")
    options = {"resultTypes": ["violations"]}
    found = page.run(f"axe.run(document, {json.dumps(options)})")["violations"]
    return [
        (each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found
    ]
