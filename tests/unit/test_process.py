"""What detach() refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsgi_defer.process import detach

# tests/life has the others from here.
from ..helpers.programs import children, descriptors


@pytest.fixture(autouse=True)
def nothing_is_left():
    """Each detach, whatever becomes of it, leaves no child and no descriptor."""
    before, files = children(), descriptors()
    yield
    # Not the same: what a test before has left may go meanwhile.
    assert children() <= before
    assert descriptors() <= files


@pytest.mark.parametrize(
    ("argv", "options", "error", "says"),
    [
        ("convert secret", {}, TypeError, "a list"),
        (b"convert secret", {}, TypeError, "a list"),
        (Path("/bin/secret"), {}, TypeError, "a list"),
        ({"convert": "secret"}, {}, TypeError, "a list"),
        (["convert", 7], {}, TypeError, "not int"),
        ([], {}, ValueError, "empty"),
        ([""], {}, ValueError, "empty"),
        (["true", "secret\0"], {}, ValueError, "null byte"),
        (["true"], {"env": {"A": "secret\0"}}, ValueError, "null byte"),
        (["true"], {"env": {"A=secret": ""}}, ValueError, "variable"),
        (["true"], {"env": {"": "secret"}}, ValueError, "variable"),
        (["true"], {"cwd": "secret\0"}, ValueError, "null byte"),
    ],
)
def test_what_is_no_command(argv, options, error, says):
    """It is refused, in words, and without its arguments."""
    with pytest.raises(error, match=says) as raised:
        detach(argv, **options)
    assert "secret" not in str(raised.value)
