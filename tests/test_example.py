"""The starting document's script against `abruzzi serve`'s application, with the real model."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable
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


def test_a_call_that_is_none_is_named(serve: Callable[[Any], Served]) -> None:
    done = run(serve(ScriptedEngine(["I don't know."])).base_url)
    assert "parsed from the output]: []" in done.stdout and done.returncode == 0


class Foreign(BaseHTTPRequestHandler):
    """A server that forbids unknown fields and parses by itself, with ids of its own."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        call = {"id": "call_abc", "type": "function",
                "function": {"name": "get_weather", "arguments": '{"location": "Rome"}'}}  # fmt: skip
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        answer = {"id": "x", "object": "chat.completion", "created": 0, "model": "m",
                  "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}  # fmt: skip
        refused = {"error": {"message": "extra fields not permitted"}}
        body = json.dumps(refused if "tool_format" in asked else answer).encode()
        self.send_response(400 if "tool_format" in asked else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_strict_server_that_parses_by_itself_will_do() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Foreign)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    done = run(f"http://127.0.0.1:{server.server_port}/v1")
    server.shutdown()
    server.server_close()
    assert done.stdout.endswith("[Tool call result]: tool_name=get_weather, tool_result=Rainy\n"), done.stderr
    assert "'id': 'functions.get_weather:0'" in done.stdout


def test_a_server_that_is_down_is_named() -> None:
    done = run("http://127.0.0.1:9/v1")
    assert done.returncode == 1
    assert done.stderr.startswith("http://127.0.0.1:9/v1:") and "Traceback" not in done.stderr
