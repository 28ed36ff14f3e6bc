"""The public names, by the pages of the reference: all are there, and none vanishes.

After a change on purpose, write the list anew, and tell of it in CHANGELOG.md:

    python -m tests.unit.test_public_api
"""

from __future__ import annotations

import configparser
import importlib
import inspect
import pkgutil
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

import wsgi_defer

HOME = Path(__file__).parents[2]
PAGES = [*(HOME / "docs" / "reference").glob("*.md"), HOME / "docs" / "errors.md"]
LIST = Path(__file__).with_name("public_api.txt")
# What the pages show: an object, and its members, all of them if none is named.
ENTRY = re.compile(
    r"^\.\. auto(?:class|function|exception):: ([\w.]+)\n(   :members:.*)?",
    re.MULTILINE,
)
MODULES = ["", ".pools", ".process", ".testing", ".jobs", ".jobs.flask", ".observers",
           ".flask", ".django", ".gunicorn"]  # fmt: skip
NEEDS_GEVENT = {"wsgi_defer.gunicorn.GeventWorker"}
# For ``from wsgi_defer.gunicorn import *`` in a configuration.
HOOKS = {"child_exit", "on_exit", "post_worker_init", "pre_fork", "worker_abort",
         "worker_exit"}  # fmt: skip


def documented():
    """Each object of the pages by its name, with the names of its members."""
    found = {}
    for page in PAGES:
        for name, members in ENTRY.findall(page.read_text()):
            if name in NEEDS_GEVENT and find_spec("gevent") is None:
                found[name] = None, []
                continue
            public = pkgutil.resolve_name(name)
            named = members.partition(":members:")[2].replace(",", " ").split()
            found[name] = public, named or (members and members_of(public)) or []
    return found


def members_of(public):
    """Its methods, properties and fields."""
    fields = vars(public).get("__annotations__", {})
    return [
        name
        for name, value in {**fields, **vars(public)}.items()
        if name[0] != "_" and (name in fields or not_a_value(value))
    ]


def not_a_value(value):
    routine = inspect.isroutine(value) or isinstance(value, (classmethod, staticmethod))
    return routine or inspect.isdatadescriptor(value)


def lines():
    """A line for each name, with its signature if it can be called."""
    for name, (public, members) in documented().items():
        yield f"{name}{signature(public)}"
        for member in members:
            value = inspect.getattr_static(public, member, None)
            yield f"{name}.{member}{signature(value)}"


def signature(public):
    if isinstance(public, (classmethod, staticmethod)):
        public = public.__func__
    made_by_us = isinstance(public, type) and ":param " not in public.__doc__
    if made_by_us or not callable(public):
        return ""
    return str(inspect.signature(public)).replace("'", "")


def test_no_public_name_vanishes():
    """Nor changes its parameters."""
    assert "\n".join(sorted(lines())) + "\n" == LIST.read_text()


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_documented(module):
    """On a page of the reference, or on that of errors, with a docstring of its own."""
    pages = documented()
    names = {
        f"wsgi_defer{module}.{name}"
        for name in importlib.import_module(f"wsgi_defer{module}").__all__
        if name not in HOOKS
    }
    by_object = {id(public) for public, _ in pages.values()}
    missing = {
        name
        for name in names - set(pages)
        if id(pkgutil.resolve_name(name)) not in by_object
    }
    assert missing == set()
    assert all(public.__doc__ for public, _ in pages.values() if public is not None)


def test_the_version_is_that_of_the_metadata():
    """It is written in two files, as a build must not import the package."""
    setup = configparser.ConfigParser()
    setup.read(HOME / "setup.cfg")
    assert wsgi_defer.__version__ == setup["metadata"]["version"]


if __name__ == "__main__":
    LIST.write_text("\n".join(sorted(lines())) + "\n")
