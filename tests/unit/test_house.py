"""The house: imports point down, by folder, and third parties stay in their rooms."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "wsgi_defer"

# From the ground up: the folders of the package, and its public modules. A folder may
# import those on the floors below it, and not those beside it. ``process`` is apart:
# nothing imports it.
FLOORS = [
    {"errors", "_runtime", "process"},
    {"observers"},
    {"_calls"},
    {"background", "ledger", "jobs"},
    {"_servers", "pools"},
    {"_request"},
    {"gunicorn"},
    {"__init__", "flask", "django", "sqlalchemy", "testing", "paste"},
    {"pytest_plugin"},
]
# Where a third party may be imported; a folder's name is for all that is in it.
THIRD_PARTIES = {
    "flask": {"flask", "click"},
    "pytest_plugin": {"pytest"},
    "gunicorn": {"gunicorn", "gevent"},
    "django": {"django", "asgiref"},
    "sqlalchemy": {"sqlalchemy"},
    "observers.opentelemetry": {"opentelemetry"},
    "observers.sentry": {"sentry_sdk"},
    "jobs.flask": {"flask", "click"},
    "jobs._cron": {"cronsim"},
    "jobs.engines.dbos": {"dbos", "sqlalchemy"},
    "jobs.engines.rq": {"rq", "redis"},
    "jobs.engines.celery": {"celery", "kombu", "amqp"},
    "jobs.engines.procrastinate": {"procrastinate", "psycopg"},
    "jobs.engines._postgres": {"psycopg"},
}
# What type checkers bring themselves.
FOR_TYPES = {"_typeshed", "typing_extensions"}
LONGEST = 460  # lines of a file


def name_of(path):
    """The module's name inside the package; that of a folder for its ``__init__``."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and parts[1:] else parts)


PATHS = {name_of(path): path for path in sorted(PACKAGE.glob("**/*.py"))}


def room(name):
    """The folder, or the public module, that a module is in."""
    return name.partition(".")[0]


def is_for_types(node):
    """Whether it is ``if TYPE_CHECKING:``."""
    return getattr(getattr(node, "test", None), "id", "") == "TYPE_CHECKING"


def imports(name):
    """What a module imports, in its functions and for type checkers, too: modules of
    this package, the top names of others, and those that only type checkers see."""
    path = PATHS[name]
    parents = path.relative_to(PACKAGE).parts[:-1]
    inside, outside, for_types = set(), set(), set()

    def look(node, into):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = parents[: len(parents) - node.level + 1]
            module = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            for alias in node.names:
                deeper = f"{module}.{alias.name}".strip(".")
                inside.add(deeper if deeper in PATHS else module)
        elif isinstance(node, ast.ImportFrom):
            into.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Import):
            into.update(alias.name.partition(".")[0] for alias in node.names)
        for child in ast.iter_child_nodes(node):
            look(child, for_types if is_for_types(node) else into)

    look(ast.parse(path.read_text()), outside)
    return inside, outside, for_types


IMPORTS = {name: imports(name) for name in PATHS}


def test_every_folder_has_its_floor():
    """A new folder is put on one, so that somebody thinks about it."""
    assert {room(name) for name in PATHS} == set().union(*FLOORS)


@pytest.mark.parametrize("name", PATHS)
def test_imports_point_down(name):
    """From one folder to those below it only, for type checkers, too."""
    [floor] = [number for number, rooms in enumerate(FLOORS) if room(name) in rooms]
    below = set().union(*FLOORS[:floor]) - {"process"}
    assert {room(other) for other in IMPORTS[name][0]} <= below | {room(name)}


def test_no_circles():
    """Not inside a folder either."""
    left = {name: inside - {name} for name, (inside, _, _) in IMPORTS.items()}
    while free := {name for name, inside in left.items() if not inside & set(left)}:
        left = {name: inside for name, inside in left.items() if name not in free}
    assert left == {}


@pytest.mark.parametrize("name", PATHS)
def test_third_parties_stay_in_their_rooms(name):
    """Each is imported in one place, and nothing from elsewhere imports that."""
    allowed = set(sys.stdlib_module_names)
    for place, packages in THIRD_PARTIES.items():
        if f"{name}.".startswith(f"{place}."):
            allowed |= packages
    _, outside, for_types = IMPORTS[name]
    assert outside <= allowed
    assert for_types <= allowed | FOR_TYPES


@pytest.mark.parametrize("place", THIRD_PARTIES)
def test_nothing_imports_the_rooms_of_third_parties(place):
    """Nobody has to have them: ``_engine`` finds an engine by its URL, at run time."""
    inside = {name for name in PATHS if f"{name}.".startswith(f"{place}.")}
    neighbours = inside | {name for name in PATHS if name.startswith("jobs.engines.")}
    for name in PATHS.keys() - (neighbours if "engines" in place else inside):
        assert not IMPORTS[name][0] & inside, name


def test_the_root_has_only_what_users_import():
    """And private folders, whose ``__init__`` says what they are for, and no more."""
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert not [name for name in modules if name.startswith("_")]
    for name, path in PATHS.items():
        if path.name == "__init__.py" and path.parent.name.startswith("_"):
            [docstring] = ast.parse(path.read_text()).body
            assert isinstance(docstring.value.value, str), name


@pytest.mark.parametrize("name", PATHS)
def test_files_are_a_few_screens_long(name):
    """Somebody is to read them."""
    assert len(PATHS[name].read_text().splitlines()) <= LONGEST
