"""``python -m wsgi_defer COMMAND``."""

from __future__ import annotations

import importlib
import sys

# Each with its module, whose ``main(argv)`` returns the exit status, and what it does.
# Only the one that is wanted is imported.
COMMANDS = {
    "doctor": ("doctor._command", "examine a deployment from outside"),
}


def main(argv: list[str]) -> int:
    """Run the command; without one, say which there are. Returns the exit status."""
    if argv and argv[0] in COMMANDS:
        module = importlib.import_module(f".{COMMANDS[argv[0]][0]}", __package__)
        status: int = module.main(argv[1:])
        return status
    wanted = bool(argv) and argv[0] in ("-h", "--help")
    lines = [f"  {name:8} {text}" for name, (_, text) in COMMANDS.items()]
    print(
        "usage: python -m wsgi_defer COMMAND ...\n\ncommands:", *lines, sep="\n",
        file=sys.stdout if wanted else sys.stderr,
    )  # fmt: skip
    return 0 if wanted else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
