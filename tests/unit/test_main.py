"""``python -m wsgi_defer``: it hands over to the command."""

from __future__ import annotations

import pytest

from wsgi_defer import __main__ as program


@pytest.mark.parametrize(
    ("argv", "status"), [([], 2), (["nothing"], 2), (["--help"], 0), (["-h"], 0)]
)
def test_usage(capsys, argv, status):
    """Without a command that it has, it says which there are."""
    assert program.main(argv) == status
    said = capsys.readouterr()
    assert "doctor   examine a deployment" in (said.err if status else said.out)


def test_a_command(capsys):
    """It gets the rest of the line."""
    assert program.main(["doctor", "nowhere", "--token", "x"]) == 2
    assert "at least 16" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        program.main(["doctor", "--help"])
    assert "python -m wsgi_defer doctor" in capsys.readouterr().out
