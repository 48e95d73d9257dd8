"""What is shown: on stdout what was asked for, on stderr all else."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Any, TextIO

import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """What a model or a tool wrote, without the power to move the terminal's cursor or change its title."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def kept_stdout() -> TextIO:
    """Stdout, for one JSON object; whatever else goes to its descriptor from now on, from a tool or a program that it
    starts, turns up on stderr.
    """
    kept = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return kept


def print_json(value: Any, stdout: TextIO | None = None) -> None:
    print(msgspec.json.encode(value).decode(), file=stdout, flush=True)


@contextlib.contextmanager
def progress_bar() -> Iterator[Any]:
    """Shows downloads, from the first megabyte on: a bar on a terminal, a line elsewhere."""
    columns = (
        TextColumn("fetching {task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=err, transient=True)
    tasks: dict[str, Any] = {}

    def advance(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(what)
            if err.is_terminal:
                bar.start()
            else:
                err.print(f"fetching {what}, {total / 1e6:.0f} MB ...")
        bar.update(tasks[what], completed=done, total=total or None)

    try:
        yield advance
    finally:
        if err.is_terminal and tasks:
            bar.stop()
