"""Dashboard, alerts and page name what is exported, and nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from wsgi_defer.ledger import CallFigures, Histogram, Snapshot
from wsgi_defer.ledger._openmetrics import families

from ..helpers.programs import HOME

FOLDER = Path(HOME, "examples", "monitoring")
PAGE = Path(HOME, "docs", "metrics.md").read_text()
RULES = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())
OF_PROMETHEUS = {"job", "instance"}  # labels that it sets itself


class Jobs:
    """Which jobs there are."""

    def counts(self, by_name):
        return {"mail": {"failed": 1, "waiting": 1}}


def exported():
    """The labels, and the values of those whose values we choose, by each name."""
    times = Histogram((1.0,), (1, 0), 0.5)
    call = CallFigures("mail", 1, 0, 0, 0, 0, 0, times, times)
    taken = Snapshot(1, 0, True, "", (), (call,), (), 0, 0, 0, 1, 1, 9, 0, None)
    found = {}
    for family in families(taken, Jobs()):
        for suffix, labels, _ in family.samples:
            values = found.setdefault(family.name + suffix, {})
            for label, value in labels.items():
                values.setdefault(label, set()).add(value)
    return found


EXPORTED = exported()
EXPRESSIONS = [
    *(rule["expr"] for rule in RULES),
    *(
        target["expr"].replace("$job", ".+").replace("$instance", ".+")
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    ),
    *(each["query"] for each in DASHBOARD["templating"]["list"]),
]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression(expression):
    """Its metrics, their labels, and the values of these."""
    for name, selector in re.findall(r"\b(wsgi_defer_\w+)(?:\{(.*?)\})?", expression):
        assert name in EXPORTED
        for label, operator, value in re.findall(r'(\w+)(=~|=)"(.*?)"', selector):
            assert label in {*EXPORTED[name], *OF_PROMETHEUS}
            if label in ("result", "state") and operator == "=":
                assert value in EXPORTED[name][label]
    for labels in re.findall(r"\b(?:by|on) \((.*?)\)", expression):
        known = {"le", "name"}.union(OF_PROMETHEUS, *EXPORTED.values())
        assert set(labels.split(", ")) <= known
    assert expression.count("(") == expression.count(")")


def test_the_rules_are_complete():
    """Each has a summary, and says how bad it is."""
    assert len({rule["alert"] for rule in RULES}) == len(RULES) == 5
    for rule in RULES:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
    configuration = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    assert configuration["rule_files"] == ["alerts.yml"]


def test_the_page_names_them_all():
    """With their labels."""
    rows = re.findall(r"^\| `(wsgi_defer_\w+)` \| (\w+) \|([^|]*)\|", PAGE, re.M)
    found = {name: set(re.findall(r"`(\w+)`", labels)) for name, _, labels in rows}
    parts = re.compile(r"_seconds_(bucket|count|sum)$")
    assert found == {
        parts.sub("_seconds", name): {*labels} - {"le"}
        for name, labels in EXPORTED.items()
    }


def test_the_page_runs():
    """All of it, as one program."""
    code = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
    code += "print(b''.join(metrics({}, lambda *head: print(head))).decode())"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert out.count("idle") == 2
    assert "application/openmetrics-text" in out
