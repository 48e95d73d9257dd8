"""The command `abruzzi`, and `python -m abruzzi`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command. A Ctrl-C that comes while it is loaded, for half a second, ends it as any other does."""
    try:
        from abruzzi.cli import main as command
    except KeyboardInterrupt:
        sys.exit("abruzzi: stopped")
    command()


if __name__ == "__main__":
    main()
