"""`abruzzi run`: the agent loop on a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Any

import click
from rich.text import Text

import abruzzi
from abruzzi.agent import Agent, Result, Run, Turn
from abruzzi.chat import Report
from abruzzi.cli.engine_options import connected, with_engine_options
from abruzzi.cli.terminal import err, kept_stdout, out, print_json, printable
from abruzzi.engines.base import Engine
from abruzzi.protocol.errors import AbruzziError
from abruzzi.tools import load


@click.command()
@click.argument("prompt")
@click.option(
    "--tools",
    "tools_file",
    type=click.Path(path_type=Path),
    help="A Python file of functions, or a JSON file of definitions.",
)
@click.option("--system", help="A system prompt.")
@click.option(
    "--max-turns", type=click.IntRange(min=1), default=10, show_default=True, help="Answers of the model at the most."
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="One JSON object on stdout: answer, and turns with output, tool_calls, results.",
)
@with_engine_options
def run(prompt: str, tools_file: Path | None, system: str | None, max_turns: int, as_json: bool, **engine: Any) -> None:
    """Ask the model, run the tools that it calls, and show everything up to its answer."""
    if not prompt.strip():
        raise click.UsageError("the prompt is empty: say what the model is asked")
    with kept_stdout() if as_json else contextlib.nullcontext() as stdout:
        tools = load(tools_file or Path(abruzzi.__file__).parent / "example_tools.py")
        asked = connected(**engine)
        agent = Agent(tools=tools, engine=asked, system=system, max_turns=max_turns)
        turns: list[Turn] = []
        answer = None
        try:
            answer = asyncio.run(_show(agent, asked, prompt, turns, quiet=as_json))
        except AbruzziError as error:
            if not turns:
                raise
            err.print(f"abruzzi: {error}; what was done before stands above", markup=False)
        if stdout is not None:
            print_json({"answer": answer, "turns": [_turn_as_json(turn) for turn in turns]}, stdout)
    if answer is None and not _only_shown(turns[-1]):
        sys.exit(1)


async def _show(agent: Agent, engine: Engine, prompt: str, turns: list[Turn], *, quiet: bool) -> str | None:
    """Print each turn as soon as it is there and put it into `turns`; close the engine in the end. Returns the answer,
    or None where there is none.
    """
    waiting = err.status("the model is writing ...")
    if not quiet:
        waiting.start()
    try:
        async with contextlib.aclosing(agent.stream(prompt)) as items:
            async for item in items:
                if isinstance(item, Turn):
                    turns.append(item)
                    # A turn that only answers is shown as the answer.
                    if not quiet and (item.tool_calls or item.report.problems or item.report.resumes):
                        waiting.stop()
                        _show_turn(len(turns), item)
                        waiting.start()
                elif isinstance(item, Run):
                    waiting.stop()
                    _show_answer(item, quiet=quiet)
                    return item.answer
    finally:
        waiting.stop()
        await engine.aclose()
    raise AssertionError("an agent's stream ends with its Run")


def _show_turn(number: int, turn: Turn) -> None:
    out.rule(f"Turn {number}", align="left")
    # Of a turn that was resumed the output is what the parts came to.
    _show_part("The turn reads" if turn.report.resumes else "The model wrote", turn.output)
    if done := _done(turn.report):
        _show_part("Enforced", done)
    for result in turn.results:
        _show_part(
            "Parsed call", f"{result.call.function.name}  {result.call.function.arguments}  (id {result.call.id})"
        )
        _show_part(
            "Tool's result", "not run: there is only its definition" if result.content is None else result.content
        )
    for problem in turn.report.problems:
        _show_part(problem.action.capitalize(), f"{problem.kind}: {problem.detail}")
    out.print()


def _done(report: Report) -> str:
    """What the guard did to the turn, in words; nothing where it only looked."""
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(report.violations.items()))
    parts = [f"went wrong: {kinds}"] if kinds else []
    parts += [f"asked to go on: {report.resumes}"] if report.resumes else []
    parts += [f"characters added: {report.forced}"] if report.forced else []
    return "; ".join(parts)


def _show_part(title: str, text: str) -> None:
    out.print(Text.assemble((f"{title:<16}", "bold cyan"), printable(text)))


def _show_answer(run: Run, *, quiet: bool) -> None:
    if run.answer is None and not _only_shown(run.turns[-1]):
        err.print(f"abruzzi: the model still calls tools after {len(run.turns)} turns (--max-turns)")
    elif run.answer is not None and not quiet:
        out.rule("Answer", align="left")
        out.print(Text(printable(run.answer)))


def _only_shown(turn: Turn) -> bool:
    """Whether the turn ended the run because its calls are definitions', which nobody can run."""
    return any(result.content is None for result in turn.results)


def _turn_as_json(turn: Turn) -> dict[str, Any]:
    return {
        "output": turn.output,
        "tool_calls": [call.to_openai() for call in turn.tool_calls],
        "results": [_result_as_json(result) for result in turn.results],
        "abruzzi": turn.report.told(),
    }


def _result_as_json(result: Result) -> dict[str, Any]:
    return {"tool_call_id": result.call.id, "name": result.call.function.name, "content": result.content}
