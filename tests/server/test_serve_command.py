"""`abruzzi serve`, as a user starts it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from abruzzi.cli import server_options
from tests.conftest import CompletionsServer, events
from tests.server.asking import CHAT, HELLO, ask, streamed

COMMAND = [sys.executable, "-m", "abruzzi", "serve"]


def refused(*options: str, **environment: str) -> str:
    """What is said by a server that doesn't start."""
    command = [*COMMAND, "--port", "0", "--engine", "http://127.0.0.1:9/v1", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | environment)
    assert (done.returncode, done.stdout) == (2, "") and "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.invalid"])
def test_beyond_this_machine_it_wants_keys(host: str) -> None:
    told = refused("--host", host)
    assert all(way in told for way in ("--api-key KEY", "--api-key-file FILE", "ABRUZZI_API_KEYS", "--insecure"))
    assert "got none: unset it" in refused("--host", host, ABRUZZI_API_KEYS=" , ")


def test_what_makes_no_sense_is_told(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("good\nhas a secret\n")
    told = refused("--api-key-file", str(file))
    assert "API key 2 is none" in told and "secret" not in told
    assert "can't read API keys" in refused("--api-key-file", str(tmp_path))
    assert "such as 60/min" in refused("--rate", "often")
    for option in ("--max-concurrent", "--max-body", "--grace"):
        assert option in refused(option, "-1")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--allow-origin", "https://ui.example/app"), "such as https://ui.example or http://localhost:3000"),
        (("--allow-host", "http://h"), "such as host.docker.internal"),
        (("--allow-host", "h", "--host", "0.0.0.0", "--insecure"), "for a server on loopback"),
        (("--insecure", "--api-key", "sk-one"), "give one or the other"),
        (("--threads", "4"), "--threads is for the embedded engine"),
        (("--rate", ""), "such as 60/min"),
        (("--engine-key-file", "/dev/null"), "there is none"),
    ],
)
def test_what_does_not_go_together_is_told(options: tuple[str, ...], told: str) -> None:
    assert told in refused(*options)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_until_the_engine_is_there_clients_are_told_to_come_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as free:
        engine, port = f"http://127.0.0.1:{silent.getsockname()[1]}/v1", free.getsockname()[1]
        free.close()
        with subprocess.Popen([*COMMAND, "--port", str(port), "--engine", engine], stderr=subprocess.PIPE) as process:
            try:
                asked, _ = silent.accept()  # for its models
                with asked:
                    told = ask(port, "/health")
                    assert (told.status, told.json["status"], told.headers["retry-after"]) == (503, "loading", "3")
                    assert ask(port, CHAT).json["error"]["code"] == "engine_unavailable"
                    process.send_signal(signal.SIGTERM)
                    process.wait(5)
            finally:
                process.kill()


def test_an_empty_list_of_keys_opens_no_door() -> None:
    assert "expected API keys in ABRUZZI_API_KEYS, got none" in refused(ABRUZZI_API_KEYS="")


@pytest.mark.parametrize(("option", "value"), [("--engine-timeout", "5"), ("--engine-key-file", "key")])
def test_options_of_servers_are_none_of_the_embedded_engines(option: str, value: str) -> None:
    command = [*COMMAND, "--port", "0", "--engine", "embedded", option, value]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and f"{option} is for servers: name one with --engine URL" in done.stderr


def test_a_scheme_is_one_in_capitals_too() -> None:
    command = [*COMMAND, "--port", "0", "--engine", "HTTP://127.0.0.1:9/v1", "--variant", "k2", "--engine-timeout", "5"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "no engine answers at HTTP://127.0.0.1:9/v1" in done.stderr


def test_an_engines_key_must_be_one(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("sk-a\nsk-b\n")
    assert "expected one key in" in (told := refused("--engine-key-file", str(file))) and "sk-" not in told
    file.write_text("a secret\n")
    assert "is none: expected ASCII" in (told := refused("--engine-key-file", str(file))) and "secret" not in told
    assert "ABRUZZI_ENGINE_KEY is none" in (told := refused(ABRUZZI_ENGINE_KEY="a secret")) and "secret" not in told


def test_the_documentation_tells_of_its_options() -> None:
    help = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True).stdout
    documentation = (Path(__file__).parents[2] / "docs" / "server.md").read_text(encoding="utf-8")
    told = set(re.findall(r"--[a-z][a-z-]+", documentation)) - {"--help"}
    every = re.findall(r"^  (--[a-z-]+)", help, re.MULTILINE)
    own = set(every[: every.index("--engine")])
    assert own - {"--port"} <= told <= set(every)


@contextlib.contextmanager
def started(
    url: str, *options: str, first: str = "", **environment: str
) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [*COMMAND, "--port", str(port), "--engine", url, "--variant", "k2", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | environment) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            assert f":{port}/v1" in line and line.startswith(first)
            deadline = time.monotonic() + 20
            while True:
                with contextlib.suppress(OSError):
                    if ask(port, "/health").status:
                        break
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield port, process
        finally:
            process.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_options_and_environment_reach_the_server(completions: CompletionsServer, tmp_path: Path) -> None:
    url, handler = completions
    handler.body = events({"choices": [{"text": "Hello.", "finish_reason": "stop"}]})
    file = tmp_path / "keys"
    file.write_text("sk-file\n")
    options = ("--host", "0.0.0.0", "--api-key", "sk-given", "--api-key-file", str(file), "--rate", "3/h",
               "--max-body", "1000", "--allow-origin", "https://ui.example")  # fmt: skip
    with started(url, *options, ABRUZZI_API_KEYS="sk-env") as (port, process):
        assert ask(port, "/v1/models").status == 401
        for key in ("sk-given", "sk-file", "sk-env"):
            headers = {"Authorization": f"Bearer {key}", "Origin": "https://ui.example"}
            told = ask(port, CHAT, HELLO, headers=headers)
            assert told.status == 200 and told.headers["access-control-allow-origin"] == "https://ui.example"
        key = {"X-Api-Key": "sk-env"}
        assert ask(port, CHAT, streamed(user="x" * 1000), headers=key).status == 413
        assert [ask(port, CHAT, headers=key).status for _ in range(2)] == [200, 429]
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        log = process.stderr.read()
        assert process.wait(20) == 0
    assert "path=/v1/chat/completions status=200 ms=" in log and "status=429" in log and "sk-" not in log


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_insecure_serves_everybody(completions: CompletionsServer) -> None:
    url, handler = completions
    handler.body = events({"choices": [{"text": "Hello.", "finish_reason": "stop"}]})
    with started(url, "--host", "0.0.0.0", "--insecure", "--log-format", "json") as (port, process):
        assert ask(port, CHAT).status == 200
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        assert '"path":"/v1/chat/completions","status":200' in process.stderr.read()
        assert process.wait(20) == 0


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_all_lines_are_json_from_the_first_on(completions: CompletionsServer) -> None:
    with started(completions[0], "--log-format", "json", first='{"time":') as (port, process):
        assert ask(port, "/health").status == 200
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        told = [json.loads(line) for line in process.stderr.read().splitlines()]
    assert any(completions[0] in line.get("message", "") for line in told)  # what was found out of the engine


def test_the_engines_key_goes_to_the_engine_and_nowhere_else(completions: CompletionsServer, tmp_path: Path) -> None:
    url, handler = completions
    handler.body = events({"choices": [{"text": "Hello.", "finish_reason": "stop"}]})
    sent: list[str | None] = []

    class Noting(handler):  # type: ignore[valid-type, misc]
        def reply(self, status: int, body: bytes) -> None:
            sent.append(self.headers["Authorization"])
            super().reply(status, body)

    file = tmp_path / "key"
    file.write_text("# vLLM's --api-key\nsk-file\n")
    with ThreadingHTTPServer(("127.0.0.1", 0), Noting) as engine:
        threading.Thread(target=engine.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{engine.server_port}"
        # A proxy that the environment names is passed by.
        environment = {"ABRUZZI_ENGINE_KEY": "sk-env", "http_proxy": "http://127.0.0.1:9", "no_proxy": ""}
        for options, key in ((("--engine-key-file", str(file)), "sk-file"), ((), "sk-env")):
            with started(url, *options, **environment) as (port, process):
                assert ask(port, CHAT).status == 200
                shown = "".join(ask(port, path).body.decode() for path in ("/", "/health", "/metrics"))
                process.kill()
                assert process.stderr is not None
                assert "sk-" not in shown + process.stderr.read()
            assert set(sent) == {f"Bearer {key}"} and len(sent) > 1  # for its models, and for an answer
            sent.clear()
        engine.shutdown()


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_while_garbage_is_collected_is_not_lost(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Garbage:
        def __del__(self) -> None:
            signal.raise_signal(number)  # what its handler raises here, Python drops

    monkeypatch.setattr("gc.freeze", lambda: None)
    before = signal.signal(number, signal.default_int_handler)
    garbage = Garbage()
    garbage.own = garbage  # type: ignore[attr-defined]
    del garbage
    try:
        with pytest.raises(KeyboardInterrupt):
            server_options._settle_memory()
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
