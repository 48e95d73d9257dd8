"""The starting document's script against `abruzzi serve`'s application, with the real model."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from abruzzi.engines.base import Engine
from abruzzi.engines.scripted import ScriptedEngine
from tests.conftest import Served

SCRIPT = Path(__file__).parents[1] / "examples" / "kimi_k2_tool_calling_example.py"
RAW = (
    "[The original output from Kimi-K2]: <|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0"
    '<|tool_call_argument_begin|>{"location": "shanghai"}<|tool_call_end|><|tool_calls_section_end|>\n'
    "\n"
    "[The tool-call requests parsed from the output]: [{'id': 'functions.get_weather:0', 'type': 'function', "
    "'function': {'name': 'get_weather', 'arguments': '{\"location\": \"shanghai\"}'}}]\n"
    "\n"
    "[Tool call result]: tool_name=get_weather, tool_result=Cloudy\n"
)
PYTHONIC = (
    "[The original output from Kimi-K2]: [get_weather(location='beijing')]\n"
    "\n"
    "[The tool-call requests parsed from the output]: [{'type': 'function', "
    "'function': {'name': 'get_weather', 'arguments': {'location': 'beijing'}}}]\n"
    "\n"
    "[Tool call result]: tool_name=get_weather, tool_result=Sunny\n"
)
BEIJING = "What's the weather like in beijing today?"


def run(base_url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--base-url", base_url, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], RAW),
        (["--specify_output_format", "false"], RAW),
        (["--specify_output_format"], PYTHONIC.replace("beijing", "shanghai").replace("Sunny", "Cloudy")),
        (["--specify_output_format", "--prompt", BEIJING], PYTHONIC),
        (["--specify_output_format", "true", "--prompt", BEIJING, "--model", "kimi"], PYTHONIC),
    ],
)
def test_it_prints_the_starting_documents_lines(
    embedded: Engine, serve: Callable[[Any], Served], arguments: list[str], expected: str
) -> None:
    done = run(serve(embedded).base_url, *arguments)
    # The model may spell the place as it likes.
    assert re.sub("(?i)shanghai|beijing", lambda place: place[0].lower(), done.stdout) == expected, done.stderr


def test_an_answer_without_a_call_is_shown_as_it_is(serve: Callable[[Any], Served]) -> None:
    done = run(serve(ScriptedEngine(["I don't know."])).base_url)
    assert "parsed from the output]: []" in done.stdout and done.returncode == 0


class Foreign(BaseHTTPRequestHandler):
    """A server of somebody else's. With `message` None it isn't even one for chat."""

    message: dict[str, Any] | None
    strict = False

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        refused = self.strict and "tool_format" in asked
        answer = {"id": "x", "object": "chat.completion", "created": 0, "model": "m",
                  "choices": [{"index": 0, "message": self.message, "finish_reason": "stop"}]}  # fmt: skip
        body = json.dumps({"error": {"message": "extra fields not permitted"}} if refused else answer).encode()
        if self.message is None:
            body = b"<html>Hello</html>"
        self.send_response(400 if refused else 200)
        self.send_header("Content-Type", "application/json" if self.message else "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def foreign() -> Iterator[Callable[..., str]]:
    """Starts foreign servers; gives their URLs."""
    servers: list[ThreadingHTTPServer] = []

    def start(message: dict[str, Any] | None, *, strict: bool = False) -> str:
        handler = type("Handler", (Foreign,), {"message": message, "strict": strict})
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_strict_server_that_parses_by_itself_will_do(foreign: Callable[..., str]) -> None:
    function = {"name": "get_weather", "arguments": '{"location": "Rome"}'}
    call = {"id": "call_abc", "type": "function", "function": function}
    done = run(foreign({"role": "assistant", "content": None, "tool_calls": [call]}, strict=True))
    assert done.stdout.endswith("[Tool call result]: tool_name=get_weather, tool_result=Rainy\n"), done.stderr
    assert "'id': 'functions.get_weather:0'" in done.stdout


@pytest.mark.parametrize("form", ["Sure! {}", "```python\n{}\n```", "get_weather(location='beijing')", "{}\n"])
def test_the_asked_format_is_found_among_words(foreign: Callable[..., str], form: str) -> None:
    content = form.format("[get_weather(location='beijing')]")
    done = run(foreign({"role": "assistant", "content": content}), "--specify_output_format")
    assert done.stdout.endswith("[Tool call result]: tool_name=get_weather, tool_result=Sunny\n"), done.stderr


def test_a_server_that_speaks_something_else_is_named(foreign: Callable[..., str]) -> None:
    done = run(foreign(None))
    assert done.returncode == 1
    assert "no chat completion" in done.stderr and "Traceback" not in done.stderr


def test_a_server_that_is_down_is_named() -> None:
    done = run("http://127.0.0.1:9/v1")
    assert done.returncode == 1
    assert done.stderr.startswith("http://127.0.0.1:9/v1:") and "Traceback" not in done.stderr
