"""`vllm serve` as tests use it: started with its children, waited for, asked, and ended with its children."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.real.tiny_k2 import K2_RANKS, RANKS

MODEL = "tiny-k2"
CONTEXT = 8192
# One thread and a gigabyte of cache; nothing is fetched and nothing is told to anybody.
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
}
_READY_SECONDS = 600.0  # 30 to 45 where files are cached, 114 where they aren't, more beside other work
_END_SECONDS = 20.0


def serve_command(vllm: str | Path, folder: Path, port: int, backend: str) -> list[str]:
    """What serves the checkpoint in `folder`; `backend` is the one of structured outputs."""
    return [
        *(str(vllm), "serve", str(folder), "--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", "bfloat16", "--enforce-eager", "--max-model-len", str(CONTEXT), "--max-num-seqs", "4"),
        # On CPU a request with a seed whose prompt is read in several parts ends vLLM 0.32 ("CPU Generator does not use
        # offset"): all prompts are read at once.
        *("--max-num-batched-tokens", str(CONTEXT)),
        *("--structured-outputs-config", json.dumps({"backend": backend})),
    ]


class Vllm:
    """A server that runs."""

    def __init__(
        self, port: int, backend: str, log: Path, folder: Path = Path(), *, is_large: bool = False, pid: int = 0
    ) -> None:
        self.port, self.backend, self.log = port, backend, log
        self.folder, self.pid = folder, pid
        self.is_large, self.ranks = is_large, K2_RANKS if is_large else RANKS
        self.url = f"http://127.0.0.1:{port}"

    def get(self, path: str) -> str:
        with _asked(self.port, "GET", path) as response:
            return response.read().decode()

    def post(self, path: str, **body: Any) -> tuple[int, Any]:
        """The status and the answer's JSON."""
        with _asked(self.port, "POST", path, {"model": MODEL, **body}) as response:
            return response.status, json.load(response)

    def complete(self, prompt: str | list[int], **body: Any) -> dict[str, Any]:
        """The choice of a completion that must succeed."""
        status, answer = self.post("/v1/completions", prompt=prompt, **body)
        assert status == 200, answer
        choice: dict[str, Any] = answer["choices"][0]
        return choice

    @contextmanager
    def stream(self, prompt: str | list[int], **body: Any) -> Iterator[Iterator[dict[str, Any]]]:
        """The chunks of a stream, which is left at the end of the `with`."""
        body = {"model": MODEL, "prompt": prompt, "stream": True, **body}
        with _asked(self.port, "POST", "/v1/completions", body) as response:
            assert response.status == 200, response.read()
            lines = (line.removeprefix(b"data: ").strip() for line in response if line.startswith(b"data: "))
            yield (json.loads(line) for line in lines if line != b"[DONE]")

    def running(self) -> int:
        """Requests that it is working on."""
        lines = self.get("/metrics").splitlines()
        return round(sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running{")))


@contextmanager
def serving(
    command: list[str], port: int, backend: str, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Vllm]:
    """The server that a command starts, from when it is healthy; it and its children are gone afterwards."""
    path = f"{Path(command[0]).parent}{os.pathsep}{os.environ['PATH']}"  # where it finds its own tools
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            env={**os.environ, "PATH": path, **ENVIRONMENT, **(environment or {})},
            start_new_session=True,
        )
    try:
        _wait_until_healthy(process, port, log)
        yield Vllm(port, backend, log, pid=process.pid)
    finally:
        _end(process)


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + _READY_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"vllm ended with {process.returncode}: {_tail(log)}")
        with suppress(OSError, http.client.HTTPException), _asked(port, "GET", "/health") as response:
            if response.status == 200:
                return
        time.sleep(0.5)
    raise RuntimeError(f"vllm isn't healthy after {_READY_SECONDS:.0f} seconds: {_tail(log)}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """In order first, which ends its children, too; what is left of its group is killed."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_END_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-30:])


@contextmanager
def _asked(port: int, method: str, path: str, body: Any = None) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        headers = {} if body is None else {"Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        yield connection.getresponse()
    finally:
        connection.close()
