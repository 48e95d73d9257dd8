"""`abruzzi parse`: what a model wrote, as a message."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import BinaryIO

import click

from abruzzi.cli.terminal import kept_stdout, print_json
from abruzzi.guide.reading import ToolFormat, parser_for
from abruzzi.protocol.errors import RequestError
from abruzzi.protocol.events import Event
from abruzzi.protocol.messages import Message, Tool
from abruzzi.tools import load


@click.command("parse")
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
    stdout = kept_stdout()  # a file of tools may print
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
        print_json(value, stdout)
