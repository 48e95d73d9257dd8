"""`abruzzi launch`: real processes, sockets and signals."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import section
from tests.launch.launched import Launched, is_alive, launched, told, until
from tests.launch.standin import Api
from tests.ports import free_port
from tests.server.asking import CHAT, ask, raw, read_all

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what is left of an engine is seen in /proc")
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]},
        },
    }
]
HELLO = [{"role": "user", "content": "What's the weather like in Paris?"}]
CALL = section(("functions.get_weather:0", '{"location": "Paris"}'))
TRTLLM = ("trtllm-serve", "--model", "/nowhere/Kimi-K2-Instruct/", "--backend", "pytorch", "--tp_size", "8")
VLLM = ("vllm", "serve", "moonshotai/Kimi-K2-Instruct")
LONG = "It is cloudy in Paris. " * 400


def stream(one: Launched) -> socket.socket:
    """A stream of which the first text is there."""
    with raw(one.port, {"messages": HELLO, "stream": True}) as connection:
        kept = connection.dup()
    kept.settimeout(30)
    got = b""
    while b"cloudy" not in got:
        part = kept.recv(1 << 16)
        assert part, got
        got += part
    return kept


def is_up(port: int) -> bool:
    with contextlib.suppress(OSError):
        return ask(port, "/health").status == 200
    return False


def test_the_starting_documents_command_serves_tool_calls(tmp_path: Path) -> None:
    file = tmp_path / "extra_llm_api_options.yaml"
    file.write_text("cuda_graph_config:\n  enable_padding: true\n  batch_sizes: [1, 2, 4]\nenable_attention_dp: true\n")
    command = (*TRTLLM, "--ep_size", "8", "--extra_llm_api_options", str(file))
    with launched(tmp_path, *command, text=CALL, model="Kimi-K2-Instruct") as one:
        answer = ask(one.ready().port, CHAT, {"messages": HELLO, "tools": TOOLS}).json
        (call,) = answer["choices"][0]["message"]["tool_calls"]
        assert call["function"] == {"name": "get_weather", "arguments": '{"location": "Paris"}'}
        assert ask(one.port, "/health").json["engines"][0]["status"] == "ok"
        argv = one.engine["argv"]
        assert argv[:-5] == ["trtllm-serve", "/nowhere/Kimi-K2-Instruct/", *command[3:]]
        assert argv[-5:-1] == ["--trust_remote_code", "--host", "127.0.0.1", "--port"] and argv[-1] != str(one.port)
        assert one.end(signal.SIGINT) == 0
        assert not is_alive(one.engine["pids"][0])  # before the command ends, and not some time later
    mended = ("--model /nowhere/Kimi-K2-Instruct/ is", "--trust_remote_code added")
    known = ("cuda_graph_config: ", "enable_attention_dp: ", "without guided_decoding_backend", "of variant k2")
    assert all(line in one.log for line in (*mended, *known))


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (VLLM, [*VLLM, "--trust-remote-code"]),
        (
            (
                sys.executable,
                "-u",
                "-m",
                "sglang.launch_server",
                "--model-path",
                "Kimi-K2",
                "--tool-call-parser=kimi_k2",
            ),
            ["sglang", "--model-path", "Kimi-K2", "--tool-call-parser=kimi_k2", "--trust-remote-code"],
        ),
        (
            ("sglang", "serve", "--model-path", "Kimi-K2"),
            ["sglang", "serve", "--model-path", "Kimi-K2", "--trust-remote-code"],
        ),
        (("env", "A=1", "llama-server", "-m", "/K2.gguf"), ["llama-server", "-m", "/K2.gguf", "--special"]),
    ],
)
def test_other_engines_are_launched_too(command: tuple[str, ...], arguments: list[str], tmp_path: Path) -> None:
    with launched(tmp_path, *command, text=CALL) as one:
        answer = ask(one.ready().port, CHAT, {"messages": HELLO, "tools": TOOLS}).json
        assert answer["choices"][0]["finish_reason"] == "tool_calls"
        assert one.engine["argv"][:-4] == arguments
        assert one.end(signal.SIGTERM) == 0


def test_the_port_of_the_engines_command_is_ours(tmp_path: Path) -> None:
    port = free_port()
    command = (*VLLM, "--port", str(port), "--host", "localhost")
    with launched(tmp_path, *command, port=port, says_port=False) as one:
        assert ask(one.ready().port, "/health").status == 200
        argv = one.engine["argv"]
        assert argv[-4:-1] == ["--host", "127.0.0.1", "--port"] and argv[-1] != str(port)
    assert f"abruzzi at http://localhost:{port}/v1" in one.log


def test_own_options_count_before_those_of_the_engines_command(tmp_path: Path) -> None:
    with launched(tmp_path, "--host", "127.0.0.1", *VLLM, "--port=9", "--host=0.0.0.0") as one:
        assert ask(one.ready().port, "/health").status == 200
        assert not {"--port=9", "--host=0.0.0.0"} & set(one.engine["argv"])


def test_while_it_loads_clients_are_told_to_come_again(tmp_path: Path) -> None:
    bar = "Loading safetensors:   0%\rLoading safetensors:  50%\rLoading safetensors: 100%\n"
    says = ["INFO starting\n", "\x1b[36m(EngineCore)\x1b[0m up\r\n", bar]
    with launched(tmp_path, *VLLM, load=2, listens=True, says=says) as one:
        one.wait_for("vllm | Loading safetensors: 100%")
        for path in ("/health", "/v1/models"):
            answer = ask(one.port, path)
            assert (answer.status, answer.json["status"]) == (503, "loading")
            assert 1 <= int(answer.headers["retry-after"]) < 10
        assert ask(one.port, CHAT).json["error"]["code"] == "engine_unavailable"
        one.ready()
        until(lambda: ask(one.port, "/health").status == 200, "health", 10)
    shown = [line for line in one.log.splitlines() if line.startswith("vllm | ")]
    assert shown[:3] == ["vllm | INFO starting", "vllm | (EngineCore) up", "vllm | Loading safetensors:   0%"]
    assert " 50%" not in one.log  # a bar is shown once a second


def test_an_engine_that_dies_while_it_loads_is_told_with_its_last_lines(tmp_path: Path) -> None:
    with launched(tmp_path, *VLLM, load=0.5, dies=3, child=True, says=["INFO 1\n", "INFO 2\n"]) as one:
        assert one.end() == 1
        one.nothing_left()
    end = one.log[one.log.rindex("abruzzi: vllm ended with exit code 3") :]
    assert "before it was ready" in end and "\n    INFO 1\n    INFO 2\n    RuntimeError: CUDA out of memory\n" in end


def test_an_option_that_the_engine_has_not_ends_the_launch(tmp_path: Path) -> None:
    with launched(tmp_path, *TRTLLM, "--tp-sizes", "8") as one:
        assert one.end() == 1
    assert "ended with exit code 2" in one.log and "No such option" in one.log


def test_an_engine_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    with launched(tmp_path, "--startup-timeout", "1", *VLLM, load=600, listens=True) as one:
        assert one.end() == 1
        one.nothing_left()
    assert "vllm isn't ready after 1 s (GET /health answers 503): --startup-timeout" in one.log


def test_an_engine_that_dies_while_it_serves_ends_the_server(tmp_path: Path) -> None:
    with launched(tmp_path, *VLLM, child=True, text=LONG, pause=0.05, says=["INFO up\n"]) as one:
        connection = stream(one.ready())
        os.kill(one.engine["pids"][0], signal.SIGKILL)
        with connection:
            rest = read_all(connection).decode()
        assert one.end() == 137
        one.nothing_left()
    assert '"error"' in rest and '"finish_reason":"stop"' not in rest
    assert "abruzzi: vllm was killed by SIGKILL" in one.log and "it said last:\n    INFO up" in one.log


def test_a_stream_ends_before_the_engine_does(tmp_path: Path) -> None:
    with launched(tmp_path, *VLLM, text="It is cloudy in Paris. " * 20, pause=0.02) as one:
        connection = stream(one.ready())
        one.process.send_signal(signal.SIGINT)
        with connection:
            assert b'"finish_reason":"stop"' in (rest := read_all(connection)) and b"data: [DONE]" in rest
        assert one.end() == 0
        one.nothing_left()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_loads_ends_all(number: signal.Signals, tmp_path: Path) -> None:
    with launched(tmp_path, *VLLM, load=600, child=True) as one:
        pids = one.engine["pids"]
        assert one.end(number) == 1
        assert not any(map(is_alive, pids))
    assert "abruzzi: stopped" in one.log


def test_an_engine_that_heeds_no_signal_is_killed_after_its_grace(tmp_path: Path) -> None:
    with launched(tmp_path, "--engine-grace", "1", *VLLM, stubborn=True, child=True) as one:
        pids = one.ready().engine["pids"]
        began = time.monotonic()
        assert one.end(signal.SIGTERM) == 0
        assert time.monotonic() - began > 1 and not any(map(is_alive, pids))


def test_a_second_ctrl_c_waits_for_no_grace(tmp_path: Path) -> None:
    with launched(tmp_path, "--engine-grace", "300", *VLLM, stubborn=True, load=600) as one:
        pids = one.engine["pids"]
        one.process.send_signal(signal.SIGINT)
        time.sleep(1)
        assert is_alive(pids[0])
        assert one.end(signal.SIGINT) == 1
        assert not is_alive(pids[0])


@pytest.mark.parametrize("load", [600, 0])
def test_nothing_is_left_where_we_are_killed(load: int, tmp_path: Path) -> None:
    with launched(tmp_path, *VLLM, load=load, child=True, stubborn=True) as one:
        if not load:
            one.ready()
        assert all(map(is_alive, one.engine["pids"]))
        assert one.end(signal.SIGKILL) == -signal.SIGKILL
        one.nothing_left()


def test_a_port_that_is_taken_is_told_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, launched(tmp_path, *VLLM, port=other.getsockname()[1]) as one:
        assert one.end() == 1
        assert "can't listen on 127.0.0.1" in one.log and not (tmp_path / "record").exists()


def test_two_launches_do_not_share_a_port(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with launched(tmp_path / "a", *VLLM, load=600) as first:
        assert first.engine
        with launched(tmp_path / "b", *VLLM, port=first.port) as second:
            assert second.end() == 1
        assert "can't listen on 127.0.0.1" in second.log


def test_launches_side_by_side_keep_their_engines_apart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    words, does = ("--port", "0", *VLLM), {"load": 3}
    with (
        launched(tmp_path / "a", *words, says_port=False, model="k2-a", **does) as first,
        launched(tmp_path / "b", *words, says_port=False, model="k2-b", **does) as second,
    ):
        ports = [one.engine["argv"][-1] for one in (first, second)]
        assert len(set(ports)) == 2
        first.wait_for("vllm is ready: k2-a")
        second.wait_for("vllm is ready: k2-b")


@pytest.mark.parametrize("is_loading", [False, True])
def test_who_else_answers_on_the_engines_port_is_not_taken_for_it(tmp_path: Path, is_loading: bool) -> None:
    with launched(tmp_path, *VLLM, load=600) as one:
        port = int(one.engine["argv"][-1])
        assert port == one.port + 10_000
        api = type("Other", (Api,), {"is_loading": is_loading})
        with ThreadingHTTPServer(("127.0.0.1", port), api) as other:
            threading.Thread(target=other.serve_forever, args=(0.05,), daemon=True).start()
            assert one.end() == 1
            other.shutdown()
        one.nothing_left()
    assert f"what answers on port {port} isn't vllm: another process took it" in one.log


def test_a_mute_process_on_the_engines_port_is_not_waited_for(tmp_path: Path) -> None:
    with launched(tmp_path, *VLLM, load=600) as one:
        port = int(one.engine["argv"][-1])
        with socket.create_server(("127.0.0.1", port)) as other:
            threading.Thread(target=lambda: other.accept()[0].close(), daemon=True).start()
            assert one.end() == 1
        one.nothing_left()
    assert f"what answers on port {port} isn't vllm" in one.log


@pytest.mark.parametrize("where", [True, "/health"])
def test_an_engine_that_asks_for_another_key_ends_the_launch(tmp_path: Path, where: Any) -> None:
    with launched(tmp_path, *VLLM, asks_key=where) as one:
        assert one.end() == 1
        one.nothing_left()
    assert "/v1/models answered 401: give its key with --engine-key-file FILE" in one.log


def test_clients_and_signals_are_heeded_while_it_is_found_out_what_the_engine_can_do(tmp_path: Path) -> None:
    with launched(tmp_path, "--log-format", "json", *VLLM, listens=True, thinks=30) as one:
        port = int(one.engine["argv"][-1])
        until(lambda: is_up(port), "the engine")
        time.sleep(1)
        assert ask(one.port, "/health").json["status"] == "loading"
        began = time.monotonic()
        assert one.end(signal.SIGTERM) == 1
        assert time.monotonic() - began < 10 and "is ready" not in one.log


def test_a_tokenizer_that_is_none_is_told_before_anything_starts(tmp_path: Path, shared: Path) -> None:
    for words, message in (
        (("--tokenizer", str(tmp_path), *VLLM), "expected Kimi K2's tiktoken.model"),
        (("--tokenizer", str(shared / "k2"), "--variant", "qwen2.5", *VLLM), "for a model of variant 'qwen2.5'"),
        (("--dry-run", "--tokenizer", str(tmp_path), *VLLM), "expected Kimi K2's tiktoken.model"),
    ):
        done = told(tmp_path, *words)
        assert done.returncode == 2 and message in done.stderr and not (tmp_path / "record").exists()


def test_the_engines_key_is_the_clients_too(tmp_path: Path) -> None:
    with launched(tmp_path, *VLLM, "--api-key", "sk-engine") as one:
        assert ask(one.ready().port, "/v1/models").status == 401
        assert ask(one.port, "/v1/models", headers={"Authorization": "Bearer sk-engine"}).status == 200
        assert "sk-engine" in one.engine["argv"]
    assert "sk-" not in one.log and "the engine's key lets clients in here, too" in one.log


def test_a_part_of_a_group_has_no_server_in_front(tmp_path: Path) -> None:
    command = (*VLLM, "--nnodes", "2", "--node-rank", "1", "--headless", "--port", "8123")
    with launched(tmp_path, *command, child=True) as one:
        assert one.engine["argv"] == [*command, "--trust-remote-code"]
        with pytest.raises(OSError):
            ask(one.port, "/health")
        assert one.end(signal.SIGTERM) == 0
        one.nothing_left()
    assert "--headless: a part of a group that has no API" in one.log


def test_the_folder_tells_the_variant_where_the_served_name_does_not(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "kimi_k25"}))
    command = ("vllm", "serve", str(tmp_path / "model"), "--served-model-name", "ours")
    with launched(tmp_path, *command, model="ours") as one:
        assert ask(one.ready().port, "/v1/models").json["data"][0]["id"] == "ours"
    assert "ours, of variant k2.5" in one.log and "--trust-remote-code added" in one.log
