"""What the guard costs: compiling a turn's tools, and following a call token by token; beside llguidance and xgrammar.

    python bench/guard.py [--data DIR] [--draws N] [--calls N] [--seed N] [--budget SECONDS] [--only NAME ...]
                          [--cache DIR]

The tools are those of MCP servers out of DATA (default: `shared/data` beside the checkout), drawn anew `--draws` times,
and the 117 of GitHub's server. The calls are those of answered dialogues, with their dialogue's tools, whose arguments
are valid and in the order of the schema, so that every contender can follow them, in K2's wire format and tokens;
without K2's `tiktoken.model` a piece is 4 characters, and there are no masks.

`guard` is ours, as it stands behind every engine. `grammar` is the turn's grammar as an engine would be given it
(tool_choice auto), compiled by llguidance over K2's vocabulary; `xgrammar` compiles its own structural tag for Kimi of
the same tools, less those that it refuses alone. To compile is to be ready for the first token. Cold is with all caches
empty, cached the same tools once more. A token's cost is that of taking it in, for masks that of computing the one
before it too. Times are wall-clock, xgrammar's compiler on all cores, each contender in a process of its own, one after
the other. Draws end when a size has taken `--budget` seconds.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llguidance import LLMatcher, LLTokenizer
from rich.console import Console
from rich.table import Table
from schemas import DATA, clear_caches, fetch_xgrammar, in_order, lines, load_xgrammar, validator, xgrammar_version

from abruzzi import Tool, __version__
from abruzzi.engines.local.weights import cache_directory
from abruzzi.guide.grammar import Grammar
from abruzzi.guide.guard import Guard
from abruzzi.guide.schema import Schemas
from abruzzi.protocol.errors import RequestError
from abruzzi.protocol.markers import ARGUMENT_BEGIN, CALL_BEGIN, CALL_END, MARKERS, SECTION_BEGIN, SECTION_END
from abruzzi.protocol.tokens import Tokenizer
from abruzzi.protocol.variants import K2

SIZES = (1, 10, 100, 1000)
CHUNK = 4
"""Characters of a piece where K2's tokens aren't known: about what one has."""
END_OF_TURN = "<|im_end|>"
AGAIN = 5
"""How often the same tools are compiled from the cache."""

progress = Console(stderr=True)

# The guard's own interface


def guard_of(tools: Sequence[Tool]) -> Guard:
    """A guard that is ready for the first piece of a turn."""
    return Guard(tools, Schemas(tools), K2)


def follow(tools: Sequence[Tool], pieces: Sequence[str]) -> list[float]:
    """The seconds that each piece takes; as many as there are pieces only where all are let through."""
    guard = guard_of(tools)
    seconds = []
    for piece in pieces:
        begun = time.perf_counter()
        guard.feed(piece)
        seconds.append(time.perf_counter() - begun)
        if guard.broken or guard.problems:
            return seconds[:-1]
    return seconds


# What is compiled and followed


@dataclass(frozen=True)
class Draw:
    """Tools to compile, in OpenAI's form; one row of the table is all the draws of a name."""

    name: str
    tools: Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Call:
    """A turn of a dialogue: its tools in OpenAI's form, and what the model writes, in tokens and their text."""

    tools: Sequence[dict[str, Any]]
    ids: Sequence[int]
    pieces: Sequence[str]


def draws(data: Path, count: int, seed: int) -> Iterator[Draw]:
    tools = {}
    for line in lines(data / "schemas" / "mcp_tools.jsonl.xz"):
        tool = line["tool"]
        if _is_tool(tool):
            tools[tool["function"]["name"]] = tool
    rng = random.Random(seed)
    for size in SIZES:
        for _ in range(count):
            yield Draw(f"{size:,}", rng.sample(list(tools.values()), size))
    github = next(lines(data / "schemas" / "github_mcp_tools.json.xz"))
    for _ in range(count):
        yield Draw(f"GitHub's {len(github)}", github)


def calls(data: Path, count: int, seed: int) -> list[Call]:
    dialogues = [line for path in sorted((data / "dialogues").glob("*.jsonl.xz")) for line in lines(path)]
    random.Random(seed).shuffle(dialogues)
    known = tokenizer(data)
    found: list[Call] = []
    for dialogue in dialogues:
        tools = dialogue["tools"]
        for message in dialogue["messages"]:
            if message["role"] != "assistant" or not message.get("tool_calls") or not all(map(_is_tool, tools)):
                continue
            functions = [call["function"] for call in message["tool_calls"]]
            if all(_follows(function, tools) for function in functions):
                parts = list(_wire(functions))
                ids = [] if known is None else [id for part in parts for id in _ids(known, part)]
                pieces = _chunks(parts) if known is None else _texts(known, ids)
                found.append(Call(tools, ids, pieces))
                break
        if len(found) == count:
            break
    return found


def _is_tool(tool: dict[str, Any]) -> bool:
    try:
        Tool.from_openai(tool)
    except RequestError:
        return False
    return True


def _follows(function: dict[str, Any], tools: Sequence[dict[str, Any]]) -> bool:
    """Whether the call is of a declared tool, valid, and in the order of the schema."""
    for tool in tools:
        if tool["function"]["name"] == function["name"]:
            schema = tool["function"].get("parameters") or {"type": "object", "additionalProperties": False}
            try:
                value = json.loads(function["arguments"])
                ordered = json.dumps(in_order(value, schema, schema, 0))
                return isinstance(value, dict) and ordered == json.dumps(value) and validator(schema)(value)
            except ValueError:
                return False
    return False


def _wire(functions: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield SECTION_BEGIN
    for index, function in enumerate(functions):
        yield from (
            CALL_BEGIN,
            f"functions.{function['name']}:{index}",
            ARGUMENT_BEGIN,
            function["arguments"],
            CALL_END,
        )
    yield SECTION_END


def tokenizer(data: Path) -> Tokenizer | None:
    folder = data / "k2"
    return Tokenizer.from_folder(folder) if (folder / "tiktoken.model").exists() else None


def _ids(known: Tokenizer, part: str) -> list[int]:
    return [known.controls[part]] if part in MARKERS else known.encode(part)


def _texts(known: Tokenizer, ids: Sequence[int]) -> list[str]:
    """The text with which each token comes: none where a character isn't whole yet."""
    detokenizer = known.detokenizer()
    return ["".join(detokenizer.feed([id])) for id in ids]


def _chunks(parts: Sequence[str]) -> list[str]:
    return [
        piece
        for part in parts
        for piece in ([part] if part in MARKERS else [part[at : at + CHUNK] for at in range(0, len(part), CHUNK)])
    ]


def vocabulary(known: Tokenizer) -> list[bytes]:
    """K2's tokens by their ids. The markers are tokens like others here, as grammars spell them."""
    ranks = known._encoding._mergeable_ranks
    return [
        *sorted(ranks, key=ranks.__getitem__),
        *(control.encode() for _, control in sorted(known.spellings.items())),
    ]


# Who is measured

Read = Callable[[Sequence[dict[str, Any]]], Any]
Ready = Callable[[Any], Any]
Follow = Callable[[Call], list[float]]


@dataclass
class Contender:
    """How one reads a request's tools (untimed), gets ready for them, follows a call, and empties its caches."""

    version: str
    read: Read
    ready: Ready
    follow: Follow
    clear: Callable[[], None]
    takes: Callable[[dict[str, Any]], bool] = lambda tool: True


def _read(tools: Sequence[dict[str, Any]]) -> list[Tool]:
    return [Tool.from_openai(tool) for tool in tools]


def ours(data: Path, cache: Path) -> Contender:
    def take(call: Call) -> list[float]:
        return follow(_read(call.tools), call.pieces)

    return Contender(__version__, _read, guard_of, take, clear_caches)


def grammar(data: Path, cache: Path) -> Contender:
    known = tokenizer(data)
    if known is None:
        raise ImportError(f"there is no vocabulary of K2's in {data}")
    tokens = vocabulary(known)
    end = known.controls[END_OF_TURN]
    table = LLTokenizer.from_tiktoken(  # type: ignore[attr-defined]
        encoder={token: id for id, token in enumerate(tokens) if id != end},
        special_tokens={END_OF_TURN: end},
        pattern=known._encoding._pat_str,
        eos_token=end,
        n_vocab=len(tokens),
    )

    @lru_cache(maxsize=1024)
    def compiled(lark: str) -> LLMatcher:
        matcher = LLMatcher(table, LLMatcher.grammar_from_lark(lark))
        if matcher.is_error():
            raise RequestError(matcher.get_error())
        return matcher

    def ready(tools: Sequence[Tool]) -> LLMatcher:
        return compiled(Grammar.for_turn(tools, tool_choice="auto").lark).deep_copy()

    def take(call: Call) -> list[float]:
        matcher = ready(_read(call.tools))
        seconds = []
        for id in call.ids:
            begun = time.perf_counter()
            matcher.compute_bitmask()
            taken = matcher.consume_token(id)
            seconds.append(time.perf_counter() - begun)
            if not taken:
                return seconds[:-1]
        return seconds

    def clear() -> None:
        clear_caches()
        compiled.cache_clear()

    return Contender(version("llguidance"), _read, ready, take, clear)


def xgrammar(data: Path, cache: Path) -> Contender:
    known = tokenizer(data)
    if known is None:
        raise ImportError(f"there is no vocabulary of K2's in {data}")
    xgr = load_xgrammar(cache)
    numpy = sys.modules["numpy"]
    tokens = vocabulary(known)
    info = xgr.TokenizerInfo(tokens, xgr.VocabType.RAW, stop_token_ids=[known.controls[END_OF_TURN]])
    compiler = xgr.GrammarCompiler(info, max_threads=os.cpu_count() or 1)
    mask = numpy.full((1, math.ceil(len(tokens) / 32)), -1, dtype=numpy.int32)

    def tag(tools: Sequence[dict[str, Any]]) -> Any:
        return xgr.get_model_structural_tag("kimi", tools=tools, tool_choice="auto", reasoning=False)

    def ready(tools: Sequence[dict[str, Any]]) -> Any:
        return xgr.GrammarMatcher(compiler.compile_structural_tag(tag(tools)))

    def take(call: Call) -> list[float]:
        matcher = ready(call.tools)
        seconds = []
        for id in call.ids:
            begun = time.perf_counter()
            matcher.fill_next_token_bitmask(mask)
            taken = matcher.accept_token(id)
            seconds.append(time.perf_counter() - begun)
            if not taken:
                return seconds[:-1]
        return seconds

    def takes(tool: dict[str, Any]) -> bool:
        try:
            xgr.Grammar.from_structural_tag(tag([tool]))
        except (RuntimeError, ValueError):
            return False
        return True

    return Contender(xgrammar_version(cache), list, ready, take, compiler.clear_cache, takes)


CONTENDERS = {"guard": ours, "grammar": grammar, "xgrammar": xgrammar}

# Measuring


@dataclass
class Compiled:
    """A contender's seconds of compiling the draws of one name; `refused` are the tools that had to be left out."""

    cold: list[float] = field(default_factory=list)
    cached: list[float] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)


@dataclass
class Figures:
    version: str
    compiled: dict[str, Compiled] = field(default_factory=dict)
    tokens: list[float] = field(default_factory=list)
    whole: int = 0
    """Calls that were followed to their end."""


def measure(name: str, arguments: argparse.Namespace) -> Figures:
    """The contender's figures, worked out in this process."""
    contender = CONTENDERS[name](arguments.data, arguments.cache)
    figures = Figures(contender.version)
    spent: dict[str, float] = {}
    taken: dict[str, bool] = {}
    contender.ready(contender.read([]))
    for draw in draws(arguments.data, arguments.draws, arguments.seed):
        result = figures.compiled.setdefault(draw.name, Compiled())
        if spent.setdefault(draw.name, 0.0) > arguments.budget:
            continue
        if not result.cold:
            progress.print(f"{name}: compiling {draw.name} tools ...", highlight=False)
        tools = []
        for tool in draw.tools:
            key = tool["function"]["name"]
            if key not in taken:
                taken[key] = contender.takes(tool)
            if taken[key]:
                tools.append(tool)
            else:
                result.refused.add(key)
        contender.clear()
        result.cold.append(seconds(contender.ready, contender.read(tools)))
        for _ in range(AGAIN):
            same = json.loads(json.dumps(tools))
            result.cached.append(seconds(contender.ready, contender.read(same)))
        spent[draw.name] += result.cold[-1] + sum(result.cached[-AGAIN:])
    progress.print(f"{name}: following calls ...")
    for call in calls(arguments.data, arguments.calls, arguments.seed):
        try:
            tokens = contender.follow(call)
        except (RequestError, RuntimeError, ValueError) as error:
            progress.print(f"{name} doesn't take a call's tools: {error!r}", markup=False)
            continue
        figures.tokens += tokens
        figures.whole += len(tokens) == len(call.pieces)
    return figures


def seconds(ready: Ready, tools: Any) -> float:
    begun = time.perf_counter()
    kept = ready(tools)
    spent = time.perf_counter() - begun
    del kept
    return spent


def of_compiling(measured: dict[str, Figures]) -> Table:
    table = Table("tools", box=None)
    for title in ("", "draws", "cold ms", "worst", "cached ms", "refused"):
        table.add_column(title, justify="left" if not title else "right")
    for name in dict.fromkeys(name for figures in measured.values() for name in figures.compiled):
        for contender, figures in measured.items():
            result = figures.compiled[name]
            table.add_row(
                name,
                contender,
                str(len(result.cold)),
                f"{statistics.median(result.cold) * 1e3:.2f}",
                f"{max(result.cold) * 1e3:.2f}",
                f"{statistics.median(result.cached) * 1e3:.3f}",
                str(len(result.refused)),
            )
    return table


def of_following(measured: dict[str, Figures], count: int) -> Table:
    table = Table("", box=None)
    for title in ("calls followed", "tokens", "µs a token", "p99"):
        table.add_column(title, justify="right")
    for contender, figures in measured.items():
        microseconds = sorted(each * 1e6 for each in figures.tokens) or [math.nan]
        table.add_row(
            contender,
            f"{figures.whole} of {count}",
            f"{len(figures.tokens):,}",
            f"{statistics.median(microseconds):.1f}",
            f"{microseconds[math.ceil(len(microseconds) * 0.99) - 1]:.1f}",
        )
    return table


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="the folder that has `schemas`, `dialogues` and `k2`")
    parser.add_argument("--draws", type=int, default=25, help="of each number of tools; the median counts")
    parser.add_argument("--calls", type=int, default=400, help="turns that are followed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget", type=float, default=20, help="seconds of a contender on a number of tools")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), help="the contenders")
    parser.add_argument("--cache", type=Path, default=cache_directory() / "bench", help="where xgrammar is kept")
    return parser.parse_args()


def main() -> None:
    arguments = _arguments()
    if not (arguments.data / "schemas").is_dir():
        raise SystemExit(f"expected the data in {arguments.data}: say where it is with --data DIR")
    measured: dict[str, Figures] = {}
    for name in dict.fromkeys(arguments.only):
        try:
            if name == "xgrammar":
                fetch_xgrammar(arguments.cache)
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                measured[name] = process.submit(measure, name, arguments).result()
        except Exception as error:  # whatever a peer's newest version may have in store for us
            progress.print(f"{name} is left out, as it can't be loaded or failed: {error!r}", markup=False)

    console = Console(width=None if sys.stdout.isatty() else 120)
    told = f"abruzzi {__version__}, llguidance {version('llguidance')}"
    told += f", xgrammar {measured['xgrammar'].version}" if "xgrammar" in measured else ""
    console.print(f"Python {sys.version.split()[0]}, {told}, {os.cpu_count()} cores\n", highlight=False)
    console.print(of_compiling(measured))
    console.print()
    console.print(of_following(measured, len(calls(arguments.data, arguments.calls, arguments.seed))))


if __name__ == "__main__":
    main()
