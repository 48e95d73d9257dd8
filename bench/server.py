"""What it costs to have the server between a client and its engine, beside nginx and LiteLLM's proxy.

    python bench/server.py [--streams 1 64 512] [--requests 400] [--seconds 10] [--only NAME ...] [--many SECONDS]
                           [--large TOOLS] [--litellm COMMAND] [--json FILE]

All stand in front of the same engine (`server_engine.py`), which costs next to nothing, and are asked by the same
client, on one machine, one after another. Needs `nginx` in the PATH (Debian: nginx-light) and LiteLLM's proxy
(`pip install "litellm[proxy]"` in an environment of its own; `--litellm` is its command); what isn't there is left out.

    straight     no middle
    nginx        proxy_pass, one worker, no buffering
    litellm      its proxy, one worker, as installed
    abruzzi      no tools: chat API in front, raw completions behind
    with guard   with a tool: every chunk is part of a call's arguments, and goes through the guard

    CPU/request  CPU time of the middle a request: a stream of one chunk (of a call: eight), 8 at a time, the median of
                 three rounds
    CPU/chunk    CPU time of the middle a chunk of the engine, while so many streams run and none begins or ends: the
                 median of five windows, and the least and most
    first        added time to the first chunk beside so many streams, median and 99th percentile
    MB           resident at most, all its processes
    large        a new body of 5,000 tools, 2.9 MB: from when the client begins to send it to the first byte of what the
                 engine is asked; cold, and the same again; medians of three
    many         512 streams at once for a minute, each of text and then a call, compared to what the engine wrote
                 character by character

All streams together have `--rate` chunks a second. A middle that this keeps busy for more than 0.8 of a core takes
chunks together and queues requests: it is measured again with as many as keep it busy for half of one (`chunks/s`). One
that can't follow even so is marked `~`. The last table tells whether the method held: how many deltas and reads the
client had a chunk of the engine, how busy each of the three was (of one core), and how much later than due the engine
wrote a chunk, at worst.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.server_client import Many, Order, Stream, ask, begin, large_tools, many, several
from bench.server_middles import Engine, Middle, abruzzi, engine, litellm, nginx

ROUNDS, WINDOWS, LARGE_ROUNDS = 3, 5, 3
AIMS = {
    ("abruzzi", "nginx"): {"CPU/request": 8.0, "CPU/chunk": 2.0},
    ("with guard", "nginx"): {"CPU/request": 8.0, "CPU/chunk": 3.0},
    ("abruzzi", "litellm"): {"CPU/request": 1 / 50, "CPU/chunk": 1 / 15},
    ("with guard", "litellm"): {"CPU/request": 1 / 50, "CPU/chunk": 1 / 15},
}
"""What we may cost, in times what a peer does."""
LEAST_PACE = 5  # ms
HOPELESS, OVERLOADED, BUSY, RESTING = 2.0, 0.8, 0.5, 0.02  # of a core
SETTLE = 20.0
"""Seconds at most until what streams cost at their beginning is over."""
MANY, MANY_MB = 512, 150
LARGE_COLD, LARGE_AGAIN = 0.5, 0.1
progress = Console(stderr=True)
console = Console(width=180)


@dataclass
class Load:
    """Streams that run side by side."""

    chunks_a_second: float
    chunk_us: float
    chunk_us_range: tuple[float, float]
    follows: bool
    deltas_a_chunk: float
    reads_a_chunk: float
    busy: tuple[float, float, float]
    """Of one core: the middle, the client, the engine."""
    late_ms: float
    first_ms: tuple[float, float] = (0.0, 0.0)


@dataclass
class Row:
    name: str
    request_us: float = 0.0
    memory_mb: float = 0.0
    loads: dict[int, Load] = field(default_factory=dict)
    large_s: tuple[float, float] | None = None


async def measure(middle: Middle, source: Engine, options: argparse.Namespace) -> Row:
    row = Row(middle.name)
    await several(middle, 30, 8, Order(8, 0, middle.kind))
    row.request_us = await request_us(middle, options.requests)
    rate = options.rate
    for streams in options.streams:
        found = await load(middle, source, streams, options.seconds, rate, options.probes)
        if found.busy[0] > OVERLOADED and middle is not source.middle:
            rate = BUSY * 1e6 / found.chunk_us
            found = await load(middle, source, streams, options.seconds, rate, options.probes)
        row.loads[streams] = found
        if found.chunk_us * rate > HOPELESS * 1e6:  # what it can't follow would only pile up in it
            rate = BUSY * 1e6 / found.chunk_us
    row.memory_mb = middle.peak_memory()
    if options.large and middle.name != "abruzzi":
        row.large_s = await large(middle, source, options.large)
    return row


async def request_us(middle: Middle, requests: int) -> float:
    spent = []
    for _ in range(ROUNDS):
        before = middle.cpu()
        await several(middle, requests, 8, Order(1 if middle.kind == "text" else 8, 0, middle.kind))
        spent.append((middle.cpu() - before) / requests)
    return statistics.median(spent)


async def load(middle: Middle, source: Engine, streams: int, seconds: float, rate: float, probes: int) -> Load:
    pace = max(LEAST_PACE, round(streams / rate * 1000))
    order = Order(round((2 * seconds + 2 * SETTLE) * 1000 / pace), pace, middle.kind)
    running: list[Stream] = []
    for _ in range(streams):
        running.append(await begin(middle, order, Stream))
        await asyncio.sleep(0.5 / streams)
    while any(stream.first is None for stream in running):
        await asyncio.sleep(0.01)
        for stream in running:
            if stream.over.done():
                stream.over.result()
    await less_than(OVERLOADED, middle, SETTLE)
    found = await watch(middle, source, running, seconds)
    found.first_ms = await first_ms(middle, probes, seconds)
    for stream in running:
        stream.transport.abort()
    await asyncio.gather(*(stream.over for stream in running), return_exceptions=True)
    await less_than(RESTING, middle, 60)
    return found


async def watch(middle: Middle, source: Engine, running: Sequence[Stream], seconds: float) -> Load:
    """What the middle does for streams that all are under way."""

    def seen() -> tuple[float, ...]:
        counts = (sum(getattr(stream, name) for stream in running) for name in ("words", "events", "reads"))
        return (middle.cpu(), *counts, time.perf_counter(), time.process_time(), source.middle.cpu())

    await asyncio.to_thread(source.stats)
    costs, first = [], seen()
    last = first
    for _ in range(WINDOWS):
        before = last
        await asyncio.sleep(seconds / WINDOWS)
        last = seen()
        costs.append((last[0] - before[0]) / max(1, last[1] - before[1]))
    stats = await asyncio.to_thread(source.stats)
    cpu, words, events, reads, wall, client, engine_cpu = (b - a for a, b in zip(first, last, strict=True))
    if not words:
        raise RuntimeError(f"{middle.name} let nothing through for {seconds:g} s")
    return Load(
        words / wall,
        statistics.median(costs),
        (min(costs), max(costs)),
        words > 0.95 * stats["written"],
        events / words,
        reads / words,
        (cpu / wall / 1e6, client / wall, engine_cpu / wall / 1e6),
        stats["late_ms"],
    )


async def first_ms(middle: Middle, probes: int, seconds: float) -> tuple[float, float]:
    """Milliseconds to the first chunk of another stream, median and 99th percentile."""
    took: list[float] = []
    order = Order(9 if middle.kind == "call" else 2, 0, middle.kind)
    end = time.perf_counter() + seconds
    while not took or (len(took) < probes and time.perf_counter() < end):
        took.append(((await ask(middle, order, Stream)).first or 0.0) * 1000)
        await asyncio.sleep(0.005)
    return statistics.median(took), sorted(took)[int(len(took) * 0.99)]


async def less_than(busy: float, middle: Middle, seconds: float) -> None:
    """Wait until a middle is less busy than that, but no longer than so many seconds."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        before = middle.cpu()
        await asyncio.sleep(0.5)
        if middle.cpu() - before < busy * 0.5e6:
            return


async def large(middle: Middle, source: Engine, tools: int) -> tuple[float, float]:
    """Seconds to the engine for a body that is new, and for one that came before."""
    took: tuple[list[float], list[float]] = ([], [])
    for seed in range(LARGE_ROUNDS):
        order = Order(1, tools=large_tools(tools, seed))
        for times in took:
            stream = await ask(middle, order, Stream)
            times.append((await asyncio.to_thread(source.stats))["arrived"] - stream.began)
    return statistics.median(took[0]), statistics.median(took[1])


def main() -> int:
    options = arguments()
    rows: list[Row] = []
    kept = None
    with engine() as source:
        middles: dict[str, contextlib.AbstractContextManager[Middle]] = {
            "straight": contextlib.nullcontext(source.middle),
            "abruzzi": abruzzi(source.port, "text"),
            "with guard": abruzzi(source.port, "call"),
        }
        if shutil.which("nginx"):
            middles["nginx"] = nginx(source.port)
        if options.litellm:
            middles["litellm"] = litellm(source.port, options.litellm)
        for name in ("straight", "nginx", "litellm", "abruzzi", "with guard"):
            if name in middles and (not options.only or name in {"straight", *options.only}):
                progress.print(f"{name} ...")
                with middles[name] as middle:
                    rows.append(uvloop.run(measure(middle, source, options)))
        if options.many:
            progress.print("many ...")
            pace = round(MANY / options.rate * 1000)
            with abruzzi(source.port, "call") as middle:
                kept = uvloop.run(many(middle, MANY, round(options.many * 1000 / pace), pace))
    show(rows, kept, options)
    if options.json:
        told = {"rows": [asdict(row) for row in rows], "many": asdict(kept) if kept else None}
        options.json.write_text(json.dumps(told, indent=1))
    return 0 if kept is None or kept.right == kept.streams else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What the server costs between a client and its engine.")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 64, 512])
    parser.add_argument("--requests", type=int, default=400, help="of a round")
    parser.add_argument("--seconds", type=float, default=10.0, help="that streams are watched")
    parser.add_argument("--rate", type=int, default=6000, help="chunks a second of all streams, at most")
    parser.add_argument("--probes", type=int, default=200, help="requests whose first chunk is timed")
    parser.add_argument("--many", type=float, default=60.0, metavar="SECONDS", help="0 leaves it out")
    parser.add_argument("--large", type=int, default=5000, metavar="TOOLS", help="0 leaves it out")
    parser.add_argument("--only", nargs="+", choices=("straight", "nginx", "litellm", "abruzzi", "with guard"))
    parser.add_argument("--litellm", default=shutil.which("litellm"), help="LiteLLM's command")
    parser.add_argument("--json", type=Path, help="where the figures go, too")
    return parser.parse_args()


# What is shown


def show(rows: Sequence[Row], kept: Many | None, options: argparse.Namespace) -> None:
    straight, *others = rows
    show_costs(straight, others, options.streams)
    show_ratios(others, options.streams)
    show_checks(others, options.streams)
    if kept:
        console.print(
            f"many: {kept.right} of {kept.streams} streams complete and right in {kept.seconds:.0f} s,"
            f" {kept.memory_mb:.0f} MB resident at most [promised: all, less than {MANY_MB}]",
            *kept.faults,
            sep="\n  ",
            markup=False,
        )


def table_of(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in ("", *columns):
        table.add_column(column, justify="right" if column else "left")
    return table


def show_costs(straight: Row, rows: Sequence[Row], streams: Sequence[int]) -> None:
    each = [*(f"CPU/chunk, {n}" for n in streams), *(f"first, {n}" for n in streams)]
    title = f"us of CPU; ms added to the first chunk; large: s, cold and again (promised: {LARGE_COLD}, {LARGE_AGAIN})"
    table = table_of(title, "CPU/request", *each, "MB", "large")
    for row in rows:
        cells = [f"{row.request_us:.0f}"]
        for n in streams:
            one = row.loads[n]
            low, high = one.chunk_us_range
            cells.append(f"{'' if one.follows else '~'}{one.chunk_us:.1f} ({low:.1f} to {high:.1f})")
        for n in streams:
            added = [a - b for a, b in zip(row.loads[n].first_ms, straight.loads[n].first_ms, strict=True)]
            cells.append(f"{added[0]:.2f}, {added[1]:.1f}")
        large = f"{row.large_s[0]:.3f}, {row.large_s[1]:.3f}" if row.large_s else ""
        table.add_row(row.name, *cells, f"{row.memory_mb:.0f}", large)
    console.print(table)


def figures(row: Row, streams: Sequence[int]) -> dict[str, float]:
    costs = {"CPU/request": row.request_us, **{f"CPU/chunk, {n}": row.loads[n].chunk_us for n in streams}}
    return {**costs, "MB": row.memory_mb}


def show_ratios(rows: Sequence[Row], streams: Sequence[int]) -> None:
    peers = [row for row in rows if row.name in ("nginx", "litellm")]
    ours = [row for row in rows if row not in peers]
    columns = list(figures(ours[0], streams)) if ours else []
    table = table_of("ours in times theirs, in brackets the aim", *columns)
    for row in ours:
        mine = figures(row, streams)
        for peer in peers:
            theirs, aims = figures(peer, streams), AIMS[row.name, peer.name]
            cells = []
            for name in columns:
                aim = aims.get(name.partition(",")[0])
                told = f" [{aim:.2g}]" if aim else ""
                cells.append(f"{mine[name] / theirs[name]:.2g}{told}" if theirs[name] else "")
            table.add_row(f"{row.name} / {peer.name}", *cells)
    if table.rows:
        console.print(table)


def show_checks(rows: Sequence[Row], streams: Sequence[int]) -> None:
    table = table_of(
        "the method", "streams", "chunks/s", "deltas a chunk", "reads", "busy: middle", "client", "engine", "late, ms"
    )
    for row in rows:
        for n in streams:
            one = row.loads[n]
            counts = [f"{one.chunks_a_second:.0f}", f"{one.deltas_a_chunk:.2f}", f"{one.reads_a_chunk:.2f}"]
            table.add_row(row.name, str(n), *counts, *(f"{busy:.0%}" for busy in one.busy), f"{one.late_ms:.1f}")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
