"""``python -m wsgi_defer``: commands for those who run an app."""

from __future__ import annotations

import sys
from importlib import import_module

# Each has a main(), which takes the arguments and returns the exit status.
COMMANDS = {"top": ".status._top"}
USAGE = """\
usage: python -m wsgi_defer COMMAND ...

  top URL          what the workers do, in a terminal; see "top --help"
"""


def main(arguments: list[str]) -> int:
    """Run the command that is named first."""
    if not arguments or arguments[0] not in COMMANDS:
        asked = arguments[:1] in (["-h"], ["--help"])
        print(USAGE, end="", file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    module = import_module(COMMANDS[arguments[0]], __package__)
    status: int = module.main(arguments[1:])
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
