"""`abruzzi doctor`: what a server can and can't do, and what to change."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from dataclasses import asdict
from pathlib import Path

import click
from rich.text import Text

from abruzzi.cli.engine_options import engine_key
from abruzzi.cli.terminal import err, out, print_json, printable
from abruzzi.engines.completions import CompletionsEngine
from abruzzi.engines.connect import base_url_of, variant_for
from abruzzi.engines.doctor import Finding
from abruzzi.engines.served import served

_MARKS = {"good": ("ok", "green"), "fair": ("--", "yellow"), "bad": ("NO", "bold red"), "unknown": ("? ", "dim")}


@click.command()
@click.argument("url")
@click.option("--model", help="The model's name on that server; its first one when left out.")
@click.option("--variant", help="The format that the model speaks; its name tells, or it is k2.")
@click.option(
    "--engine-key-file",
    "key_file",
    type=click.Path(path_type=Path),
    help="A file with the key that the server asks for. Without it ABRUZZI_ENGINE_KEY is that key, where it is set.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(url: str, model: str | None, variant: str | None, key_file: Path | None, as_json: bool) -> None:
    """Find out by asking what the engine at URL can do: what that means for valid calls, and what to change."""
    base_url, key = base_url_of(url), engine_key(key_file)
    found = served(base_url, model, key)
    engine = CompletionsEngine(base_url, model=found.model, variant=variant_for(found.model, variant), api_key=key)
    if not as_json:
        length = f", reads {found.context_length:,} tokens" if found.context_length else ""
        out.print(f"{base_url}: {found.model}, variant {engine.capabilities.variant.name}{length}\n", markup=False)
    findings = asyncio.run(_examined(engine, as_json=as_json))
    if as_json:
        print_json([asdict(finding) for finding in findings])
    if any(finding.subject == "completions" and finding.verdict == "bad" for finding in findings):
        sys.exit(1)  # for scripts: it can't be served


async def _examined(engine: CompletionsEngine, *, as_json: bool) -> list[Finding]:
    findings = []
    try:
        with err.status("asking ..."):
            async with contextlib.aclosing(engine.examine()) as examining:
                async for finding in examining:
                    findings.append(finding)
                    if not as_json:
                        _show(finding)
    finally:
        await engine.aclose()
    return findings


def _show(finding: Finding) -> None:
    mark, style = _MARKS[finding.verdict]
    out.print(Text.assemble((mark, style), f"  {finding.subject}: {printable(finding.found)}"), soft_wrap=True)
    for line in filter(None, (finding.means, finding.change and f"-> {finding.change}")):
        out.print(Text(f"      {line}", style="dim" if line == finding.means else ""), soft_wrap=True)
