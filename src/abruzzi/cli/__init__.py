"""The command `abruzzi`."""

from abruzzi.cli.commands import main

__all__ = ["main"]
