"""The house: imports point down only, and the core needs the standard library only."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "wsgi_defer"

# From the ground up. A module may import those named before it.
FLOORS = [
    "errors", "_outcome", "_coroutine", "_per_process", "_host", "_future", "_call",
    "_observer", "_pool_kinds", "_scope", "_room", "_watch", "_limit", "_drain",
    "background",
    "_deadlines", "_job", "_gather", "_thread_pool", "_parent", "_process_child",
    "_process_handle", "_process_pool", "_async_pool", "pools", "_response",
    "_transport", "_middleware", "process", "__init__",
    "flask", "ledger",
    "gunicorn._host", "gunicorn._hooks", "gunicorn._workers", "gunicorn._gevent",
    "gunicorn.__init__",
    "jobs.errors", "jobs._job", "jobs._engine", "jobs._memory", "jobs._fork_end",
    "jobs._jobs",
    "jobs.__init__", "jobs.flask", "jobs._supervisor", "jobs.__main__",
    "jobs._sqlite", "jobs._slots", "jobs._forks", "jobs._attempts", "jobs._dbos_json",
    "jobs._postgres", "jobs._dbos_worker", "jobs.dbos",
    "jobs._rq_worker", "jobs.rq", "jobs._celery_app", "jobs.celery",
    "jobs._procrastinate_worker", "jobs.procrastinate",
]  # fmt: skip
THIRD_PARTIES = {
    "flask": {"flask", "click"},
    "gunicorn._host": {"gevent"},
    "gunicorn._workers": {"gunicorn"},
    "gunicorn._gevent": {"gunicorn", "gevent"},
    "jobs._slots": {"sqlalchemy"},
    "jobs.flask": {"flask"},
    "jobs._attempts": {"sqlalchemy"},
    "jobs._dbos_json": {"dbos"},
    "jobs._dbos_worker": {"dbos"},
    "jobs.dbos": {"dbos", "sqlalchemy"},
    "jobs._rq_worker": {"rq"},
    "jobs.rq": {"rq", "redis"},
    "jobs._celery_app": {"celery", "kombu"},
    "jobs.celery": {"amqp", "kombu"},
    "jobs._postgres": {"psycopg"},
    "jobs._procrastinate_worker": {"procrastinate"},
    "jobs.procrastinate": {"procrastinate", "psycopg"},
}


def name_of(path):
    """The module's name inside the package."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def statements(nodes):
    """They and those inside them, without what only type checkers see."""
    for node in nodes:
        if getattr(getattr(node, "test", None), "id", "") != "TYPE_CHECKING":
            yield node
            for part in ("body", "handlers", "cases", "orelse", "finalbody"):
                yield from statements(getattr(node, part, []))


def imports(path):
    """What a module imports: those of this package, and the top names of all else."""
    inside, outside = set(), set()
    parents = path.relative_to(PACKAGE).parts[:-1]
    for node in statements(ast.parse(path.read_text()).body):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*parents[: len(parents) - node.level + 1]]
            modules = [node.module] if node.module else [a.name for a in node.names]
            inside.update(".".join([*base, module]) for module in modules)
        elif isinstance(node, ast.ImportFrom):
            outside.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Import):
            outside.update(alias.name.partition(".")[0] for alias in node.names)
    return inside, outside


MODULES = sorted(PACKAGE.glob("**/*.py"))


def test_every_module_has_its_floor():
    """A new module is put into the list, so that somebody thinks about it."""
    assert {name_of(path) for path in MODULES} == set(FLOORS)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_down(path):
    """No cycles, no shortcuts through the shop window, one third party each."""
    inside, outside = imports(path)
    below = FLOORS[: FLOORS.index(name_of(path))]
    assert inside <= set(below)
    allowed = THIRD_PARTIES.get(name_of(path), set()) | {"_typeshed", "__future__"}
    assert outside <= set(sys.stdlib_module_names) | allowed
