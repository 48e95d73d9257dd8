"""Whether any engine gets an invalid call through: random ones, and ones that damage right calls.

    python bench/hostile.py [--turns 1000] [--dialogues 4643] [--p 0.25] [--seed 0] [--data DIR] [--every-fault]
                            [--only required|random|sloppy|classes]

Four tables. `required`: engines that never do what they are asked, over real tools of MCP servers, a row a habit; a
call must come. `random`: the same with everything left to chance: choice, limit, format, engines that fail.
`sloppy`: engines that know the right calls of real dialogues and damage each with probability p, a row a source of
dialogues. `classes`: every call damaged once by one class, over 60 dialogues a class.

    calls     valid calls that a client got
    invalid   calls that it got and that are undeclared, no JSON, or outside of their schema
    wrong     turns that went wrong in another way: an error where none may be, no call where one had to come, events in
              no order, a call without a flaw that came out changed
    error     turns that ended in an honest error: no call had to come, or the engine itself failed
    cut       turns that a limit ended
    asked     requests to the engine a turn, median and most
    resumes   resumes a call
    as meant  share of the right calls that came, name and arguments
    beyond    characters a turn that the engine wrote and that are no part of the turn's text

A seed makes the same run again. The exit status is 1 where `invalid` or `wrong` isn't 0.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.hostile.damages import DAMAGES
from tests.hostile.dialogues import Wanted, dialogues
from tests.hostile.judge import Outcome, play
from tests.hostile.random_turn import HostileEngine, random_turn, real_tools, required_turn
from tests.hostile.sloppy import SloppyEngine, changed, sloppy_turn

ROOT = Path(__file__).resolve().parents[1]
A_CLASS = 60
"""Dialogues that each class damages."""
progress = Console(stderr=True)


@dataclass(slots=True)
class Row:
    """What became of some turns."""

    turns: int = 0
    calls: int = 0
    invalid: int = 0
    wrong: int = 0
    errors: int = 0
    cut: int = 0
    resumes: int = 0
    beyond: int = 0
    asked: list[int] = field(default_factory=list)
    right: int = 0
    came: int = 0

    def add(self, engine: HostileEngine | SloppyEngine, outcome: Outcome) -> None:
        self.turns += 1
        self.calls += len(outcome.calls) - len(outcome.invalid)
        self.invalid += len(outcome.invalid)
        self.wrong += bool(outcome.faults)
        self.errors += outcome.error is not None
        self.cut += outcome.is_cut
        self.resumes += outcome.resumes
        self.asked.append(len(engine.asked))
        self.beyond += max(0, engine.pulled - (len(outcome.report.output) if outcome.report else 0))

    def compare(self, wanted: Wanted, outcome: Outcome) -> None:
        """How many of the right calls came."""
        left = [(name, json.loads(arguments)) for name, arguments in outcome.calls]
        self.right += len(wanted.calls)
        for tool, text in wanted.calls:
            if (call := (tool.name, json.loads(text))) in left:
                left.remove(call)
                self.came += 1

    def cells(self) -> list[str]:
        asked = f"{statistics.median(self.asked):g}, {max(self.asked)}" if self.asked else ""
        calls = self.calls + self.invalid
        return [
            *map(str, (self.turns, self.calls, self.invalid, self.wrong, self.errors, self.cut)),
            asked,
            f"{self.resumes / calls:.2f}" if calls else "",
            f"{self.came / self.right:.1%}" if self.right else "",
            f"{self.beyond / self.turns:,.0f}" if self.turns else "",
        ]


class Bench:
    """The rows of a table, and what went wrong in them."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.rows: defaultdict[str, Row] = defaultdict(Row)
        self.faults: list[str] = []
        self.seconds = -time.perf_counter()

    def add(self, name: str, engine: HostileEngine | SloppyEngine, outcome: Outcome, what: str) -> None:
        for row in (self.rows[name], self.rows["all"]):
            row.add(engine, outcome)
            if isinstance(engine, SloppyEngine):
                row.compare(engine.wanted, outcome)
        self.faults += [f"{what}: {found}" for found in outcome.wrong]

    def changed(self, name: str, engine: SloppyEngine, outcome: Outcome, what: str) -> None:
        """Count the turn as wrong where a call without a flaw came out changed."""
        found = changed(engine, outcome)
        if found and not outcome.faults:
            self.rows[name].wrong += 1
            self.rows["all"].wrong += 1
            self.faults.append(f"{what}: changed: {found[0][1][:200]}")

    def show(self, *, every_fault: bool) -> None:
        table = Table(title=f"{self.title}: {self.rows['all'].turns} turns, {self.seconds:.0f} s", title_justify="left")
        table.add_column("")
        columns = ("turns", "calls", "invalid", "wrong", "error", "cut", "asked", "resumes", "as meant", "beyond")
        for column in columns:
            table.add_column(column, justify="right")
        last = self.rows.pop("all")
        for name, row in self.rows.items():
            table.add_row(name, *row.cells())
        table.add_section()
        table.add_row("all", *last.cells())
        self.rows["all"] = last
        Console(width=150).print(table)
        for found in self.faults if every_fault else self.faults[:20]:
            print(found)

    @property
    def holds(self) -> bool:
        return not (self.rows["all"].invalid or self.rows["all"].wrong)


def random_engines(data: Path, turns: int, seed: int, *, required: bool) -> Bench:
    name, make = ("required of random engines", required_turn) if required else ("random engines", random_turn)
    bench, tools = Bench(name), real_tools(data)
    for number in track(range(turns), "required" if required else "random", console=progress):
        turn = make(number, seed, tools)
        outcome = play(turn.engine, turn.request, streamed=turn.streamed)
        name = "one token for ever" if turn.habit.endswith("for ever") else turn.habit
        bench.add(name, turn.engine, outcome, f"turn {number} ({turn})")
    bench.seconds += time.perf_counter()
    return bench


def sloppy_engines(wanted: list[Wanted], p: float, seed: int) -> Bench:
    bench = Bench(f"sloppy engines, p = {p:g}")
    for number, one in enumerate(track(wanted, "sloppy", console=progress)):
        engine, request = sloppy_turn(one, seed, p=p)
        outcome = play(engine, request, streamed=number % 2 == 0)
        what = f"{one.id} ({', '.join(engine.damaged)}; {engine.capabilities.variant.name}, {request.tool_choice})"
        name = one.id.partition("_")[0]
        bench.add(name, engine, outcome, what)
        bench.changed(name, engine, outcome, what)
    bench.seconds += time.perf_counter()
    return bench


def classes(wanted: list[Wanted], seed: int) -> Bench:
    bench = Bench("each call damaged once")
    for kind in track(DAMAGES, "classes", console=progress):
        for one in islice(_spread(wanted, kind), A_CLASS):
            engine, request = sloppy_turn(one, seed, p=1.0, kinds=[kind], again=False)
            outcome = play(engine, request)
            if engine.damaged:  # else the class has nothing to damage in this turn
                bench.add(kind, engine, outcome, f"{kind}: {one.id} ({request.tool_choice})")
                bench.changed(kind, engine, outcome, f"{kind}: {one.id}")
    bench.seconds += time.perf_counter()
    return bench


def _spread(wanted: list[Wanted], kind: str) -> Iterator[Wanted]:
    """Dialogues of all sources, others for each class."""
    start = sum(map(ord, kind))
    step = max(1, len(wanted) // A_CLASS)
    return (wanted[(start + i * step) % len(wanted)] for i in range(A_CLASS))


def main() -> int:
    parser = argparse.ArgumentParser(description="Whether any engine gets an invalid call through.")
    parser.add_argument("--turns", type=int, default=1000, help="turns of random engines")
    parser.add_argument("--dialogues", type=int, default=4643, help="dialogues of sloppy engines")
    parser.add_argument("--p", type=float, default=0.25, help="how likely a call is damaged")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("required", "random", "sloppy", "classes"))
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="the shared test data")
    parser.add_argument("--every-fault", action="store_true", help="print all that went wrong, not the first 20")
    options = parser.parse_args()
    if not options.data.is_dir():
        parser.error(f"expected the shared test data in {options.data}: name its folder with --data")
    benches: list[Bench] = []
    for only in ("required", "random"):
        if options.only in (None, only):
            benches.append(random_engines(options.data, options.turns, options.seed, required=only == "required"))
    if options.only not in ("required", "random"):
        wanted = list(dialogues(options.data))
        step = max(1, len(wanted) // options.dialogues)
        if options.only != "classes":
            benches.append(sloppy_engines(wanted[::step], options.p, options.seed))
        if options.only != "sloppy":
            benches.append(classes(wanted, options.seed))
    for bench in benches:
        bench.show(every_fault=options.every_fault)
    return 0 if all(bench.holds for bench in benches) else 1


if __name__ == "__main__":
    sys.exit(main())
