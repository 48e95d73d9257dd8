"""Reads the texts in `training/material/`. Lines that begin with `# ` describe a file's form and are skipped."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "material"


def blocks(name: str) -> list[list[str]]:
    """The lines of a file, divided at blank lines."""
    text = (FOLDER / f"{name}.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("# ")]
    return [block.splitlines() for block in "\n".join(lines).strip().split("\n\n")]


def lines(name: str) -> list[str]:
    return [line for block in blocks(name) for line in block]


def pools(name: str) -> dict[str, list[str]]:
    """`name: a;b;c` lines by name."""
    divided = (line.partition(": ") for line in lines(name))
    # Code samples hold "; " themselves: only a semicolon without a blank divides.
    return {pool: re.split(r";(?! )", rest) for pool, _, rest in divided}
