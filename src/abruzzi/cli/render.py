"""`abruzzi render`: a request's prompt."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, BinaryIO

import click
import msgspec

from abruzzi.cli.terminal import print_json
from abruzzi.engines.folder import variant_of_folder
from abruzzi.protocol.errors import RequestError
from abruzzi.protocol.messages import as_messages, as_tools
from abruzzi.protocol.template import render_prompt
from abruzzi.protocol.tokens import Tokenizer
from abruzzi.protocol.variants import Variant, variant_of_model
from abruzzi.server.thinking import thinking_of


@click.command("render")
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
        print_json(Tokenizer.from_folder(tokenizer).encode_prompt(prompt), sys.stdout)
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
        row = variant_of_model(str(folder.resolve())) or variant_of_folder(folder)
    if row is None and (model is not None or folder is not None):
        raise RequestError(f"{model or folder} doesn't tell its format: name it with --variant", "model")
    return row or "k2"


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
