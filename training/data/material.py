"""Reads the texts in `training/material/`. Lines that begin with `# ` describe a file's form and are skipped."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "material"


def blocks(name: str) -> list[list[str]]:
    """The lines of a file and of those that go on with it (`NAME_*.txt`), divided at blank lines."""
    files = [*FOLDER.glob(f"{name}.txt"), *sorted(FOLDER.glob(f"{name}_*.txt"))]
    text = "\n\n".join(file.read_text(encoding="utf-8") for file in files)
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("# "))
    return [block.splitlines() for block in re.split(r"\n\n+", lines.strip())]


def lines(name: str) -> list[str]:
    return [line for block in blocks(name) for line in block]


def pools(name: str) -> dict[str, list[str]]:
    """`name: a;b;c` lines by name."""
    divided = (line.partition(": ") for line in lines(name))
    # Code samples hold "; " themselves: only a semicolon without a blank divides.
    return {pool: re.split(r";(?! )", rest) for pool, _, rest in divided}
