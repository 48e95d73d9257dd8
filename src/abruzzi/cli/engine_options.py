"""The options that say which engine is meant."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from abruzzi.cli.seconds import Seconds
from abruzzi.cli.terminal import progress_bar
from abruzzi.engines.base import Engine
from abruzzi.engines.connect import EMBEDDED, connect, is_url
from abruzzi.protocol.errors import RequestError
from abruzzi.server.access import check_key, keys_in

_ENVIRONMENT = "ABRUZZI_ENGINE_KEY"
# Of any engine behind a URL.
_OF_SERVERS = (
    click.option("--variant", help="The format that the model behind a URL speaks; its name tells, or it is k2."),
    click.option(
        "--tokenizer",
        type=click.Path(path_type=Path),
        help="The folder of a served K2's tiktoken.model: prompts go out as token ids where the engine takes them, and"
        " tokens are counted where it doesn't.",
    ),
    click.option(
        "--engine-timeout",
        "timeout",
        type=Seconds(min=0, min_open=True),
        help="Seconds of silence after which a server is given up; 600 when left out.",
    ),
    click.option(
        "--engine-key-file",
        "key_file",
        type=click.Path(path_type=Path),
        help=f"A file with the key that the servers ask for. Without it {_ENVIRONMENT} is that key, where it is set.",
    ),
    click.option(
        "--grammar/--no-grammar",
        "guided",
        default=True,
        help="Whether a server that obeys grammars is given each turn's; without, the guard alone keeps calls valid.",
    ),
)
_OPTIONS = (
    click.option(
        "--engine",
        "engines",
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
    *_OF_SERVERS,
    click.option(
        "--threads",
        type=click.IntRange(1, 512),
        help="Threads with which the embedded engine generates; 1 when left out.",
    ),
)


def with_engine_options(function: Any) -> Any:
    """A command that takes what `connected` takes."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def with_options_of_servers(function: Any) -> Any:
    """A command whose engine is behind a URL that it knows."""
    for option in reversed(_OF_SERVERS):
        function = option(function)
    return function


def connected(
    *, engines: tuple[str, ...], key_file: Path | None, threads: int | None, timeout: float | None, **options: Any
) -> Engine:
    """The engine, with a bar while its weights are fetched. Raises UsageError for an option that it has no use for."""
    if any(map(is_url, engines)):
        if threads is not None:
            raise click.UsageError("--threads is for the embedded engine: a server behind a URL has its own")
        options["api_key"] = engine_key(key_file)
    else:
        for option, given in (("--engine-timeout", timeout), ("--engine-key-file", key_file)):
            if given is not None:
                raise click.UsageError(f"{option} is for servers: name one with --engine URL")
    with progress_bar() as progress:
        return connect(engines, threads=threads or 1, timeout=timeout, progress=progress, **options)


def engine_key(file: Path | None) -> str | None:
    """The key of a file, else the environment's. Raises RequestError for what can't be a key, without showing it."""
    if file is not None:
        keys = keys_in(file)
        if len(keys) != 1:
            raise RequestError(f"expected one key in {file}, the engines', got {len(keys)}")
        return check_key(keys[0], f"the key in {file}")
    of_environment = os.environ.get(_ENVIRONMENT)
    if of_environment is None:
        return None
    return check_key(of_environment.strip(), _ENVIRONMENT)
