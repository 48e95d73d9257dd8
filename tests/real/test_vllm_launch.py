"""vLLM itself behind `abruzzi launch`: on one machine, as a group of two nodes; and one of two that is killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import openai
import pytest

from abruzzi.engines.launch.command import read
from tests.launch.launched import is_alive, until
from tests.ports import free_port
from tests.real import tiny_k2
from tests.real.vllm_serve import ENVIRONMENT, MODEL, serve_command, serving
from tests.test_deploy_doc import COMMANDS

SECONDS = 600.0
TOOL = {
    "type": "function",
    "function": {
        "name": "book",
        "parameters": {
            "type": "object",
            "properties": {"nights": {"type": "integer", "minimum": 1, "maximum": 30}},
            "required": ["nights"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_k2.make(tmp_path_factory.mktemp("tiny-k2"))


@contextlib.contextmanager
def run(*words: str, vllm: str, log: Path, environment: Mapping[str, str] | None = None) -> Iterator[Any]:
    """A command of abruzzi's; when it is left, it is told to end and does, with all that it started."""
    path = f"{Path(vllm).parent}{os.pathsep}{os.environ['PATH']}"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "abruzzi", *words],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PATH": path, **ENVIRONMENT, **(environment or {})},
            start_new_session=True,
        )
    try:
        yield process
        children = descendants(process.pid)
        process.terminate()
        process.wait(60)
        until(lambda: not any(map(is_alive, children)), f"the end of {children}", 30)
    finally:
        if process.poll() is None:
            process.kill()
            print(log.read_text(errors="replace")[-5000:])


def descendants(pid: int) -> list[int]:
    own = [int(one) for task in Path(f"/proc/{pid}/task").iterdir() for one in (task / "children").read_text().split()]
    return [*own, *(one for child in own for one in descendants(child))]


def client_of(port: int, log: Path, process: Any) -> openai.OpenAI:
    """Of a server, as soon as it is ready."""

    def is_ready() -> bool:
        assert process.poll() is None, log.read_text(errors="replace")[-5000:]
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
            return json.load(answer)["status"] == "ok"
        return False

    until(is_ready, f"a server at {port}", SECONDS)
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=300)


def check_calls(client: openai.OpenAI) -> None:
    for seed in range(5):
        answer = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Book."}],
            tools=[TOOL],  # type: ignore[list-item]
            tool_choice="required",
            seed=seed,
            max_tokens=300,
            parallel_tool_calls=False,
        )
        (call,) = answer.choices[0].message.tool_calls or ()
        assert 1 <= json.loads(call.function.arguments)["nights"] <= 30  # type: ignore[union-attr]


def parallel(command: list[str], *more: str) -> list[str]:
    """The command without its own address, with tensor parallelism 2."""
    at = command.index("--host")
    return ["vllm", *command[1:at], *command[at + 4 :], "-tp", "2", *more]


def test_it_has_the_options_of_the_commands_that_are_documented(
    vllm_command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABRUZZI_API_KEYS", "sk")
    shown = [words for _, words in COMMANDS if "vllm" in words]
    started = [read(words[words.index("vllm") :]).words(8001) for words in shown]
    assert len(started) > 5
    python = Path(vllm_command).with_name("python")
    done = subprocess.run([python, "-c", _PARSES], input=json.dumps(started), text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-3000:]


# vLLM's own parser reads each command but for its first word.
_PARSES = """
import json, sys
from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.utils.argparse_utils import FlexibleArgumentParser
for words in json.load(sys.stdin):
    parser = FlexibleArgumentParser()
    ServeSubcommand().subparser_init(parser.add_subparsers(dest="subparser"))
    parsed = parser.parse_args(words[1:])
    assert parsed.trust_remote_code, words
"""


def test_on_one_machine_with_tensor_parallelism(vllm_command: str, folder: Path, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    command = parallel(serve_command(vllm_command, folder, 0, "guidance"))
    environment = {"VLLM_CPU_OMP_THREADS_BIND": "0|1"}
    with run("launch", "--port", str(port), *command, vllm=vllm_command, log=log, environment=environment) as process:
        check_calls(client_of(port, log, process))
    assert "is vLLM 0.32.0 and is held to each turn's grammar (structured_outputs.grammar)" in " ".join(
        log.read_text(errors="replace").split()
    )


def test_as_a_group_of_two_nodes(vllm_command: str, folder: Path, tmp_path: Path) -> None:
    port, master = free_port(), free_port()
    group = ["--nnodes", "2", "--master-addr", "127.0.0.1", "--master-port", str(master)]
    command = serve_command(vllm_command, folder, 0, "guidance")
    own = {"VLLM_HOST_IP": "127.0.0.1"}
    with contextlib.ExitStack() as stack:

        def start(name: str, bind: str, *words: str) -> tuple[Any, Path]:
            log = tmp_path / name
            environment = {**own, "VLLM_CPU_OMP_THREADS_BIND": bind}
            return stack.enter_context(run("launch", *words, vllm=vllm_command, log=log, environment=environment)), log

        start("worker", "1", *parallel(command, *group, "--node-rank", "1", "--headless"))
        head, log = start("head", "0", "--port", str(port), *parallel(command, *group, "--node-rank", "0"))
        check_calls(client_of(port, log, head))


@pytest.mark.parametrize("tools", [[], [TOOL]])
def test_one_that_is_killed_in_mid_stream(vllm_command: str, folder: Path, tmp_path: Path, tools: list[Any]) -> None:
    with contextlib.ExitStack() as stack:
        engines = []
        for name in ("one", "other"):
            port = free_port()
            command = serve_command(vllm_command, folder, port, "guidance")
            engines.append(stack.enter_context(serving(command, port, "guidance", tmp_path / name)))
        port, log = free_port(), tmp_path / "log"
        urls = [word for engine in engines for word in ("--engine", engine.url)]
        process = stack.enter_context(
            run("serve", "--port", str(port), *urls, "--variant", "k2", vllm=vllm_command, log=log)
        )
        client = client_of(port, log, process)
        # What ends an answer, or begins a call, would do so before the limit.
        bias = dict.fromkeys(map(str, tiny_k2.control_ids().values()), -100)
        body: dict[str, Any] = {"logit_bias": bias, **({"tools": tools} if tools else {})}
        stream = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Tell me."}],
            stream=True,
            max_tokens=1500,
            temperature=0,
            stream_options={"include_usage": True},
            **body,
        )
        come, usage, reason = 0, None, None
        for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                reason = choice.finish_reason or reason
                come += bool(choice.delta.content)
                if come == 30 and choice.delta.content:
                    (busy,) = [engine for engine in engines if engine.running()]
                    os.killpg(busy.pid, signal.SIGKILL)
        assert reason == "length" and come > 100
        assert usage is not None and 1400 <= usage.completion_tokens <= 1600
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
            assert json.load(answer)["status"] == "degraded"
