"""Hundreds of streams at once, between processes of their own."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.server import Middle, Stream, free_port, tree

ROOT = Path(__file__).resolve().parents[2]
STREAMS, CHUNKS, PACE = 512, 100, 80
pytest.importorskip("uvloop")


@pytest.fixture
def middle() -> Iterator[Middle]:
    engine, port = free_port(), free_port()
    serve = ["-m", "abruzzi", "serve", "--port", str(port), "--engine", f"http://127.0.0.1:{engine}/v1"]
    commands = [[str(ROOT / "bench" / "server_engine.py"), str(engine)], [*serve, "--variant", "k2"]]
    running: list[subprocess.Popen[bytes]] = []
    try:
        for command, listening in zip(commands, (engine, port), strict=True):
            running.append(subprocess.Popen([sys.executable, *command], stderr=subprocess.DEVNULL))
            _await(listening)
        yield Middle("with guard", port, lambda: tree(running[1].pid), kind="call")
    finally:
        for one in reversed(running):
            one.terminate()
            one.wait(10)


def _await(port: int) -> None:
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", port), 0.5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"nothing listens on {port}")


class Kept(Stream):
    """Keeps all that comes."""

    def __init__(self, request: bytes) -> None:
        super().__init__(request)
        self.data: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        self.data.append(data)
        super().data_received(data)

    @property
    def chunks_of_chat(self) -> list[dict[str, Any]]:
        lines = b"".join(self.data).replace(b"\r\n", b"\n").split(b"\n")
        events = [line[6:] for line in lines if line.startswith(b"data: {")]
        return [json.loads(event) for event in events]


async def _ask(middle: Middle) -> Kept:
    made: list[Kept] = []

    def make() -> Kept:
        made.append(Kept(middle.request(CHUNKS, PACE)))
        return made[0]

    await asyncio.get_running_loop().create_connection(make, "127.0.0.1", middle.port)
    await asyncio.wait_for(made[0].over, 120)
    return made[0]


def test_512_streams_at_once_are_all_right(middle: Middle) -> None:
    async def all_of_them() -> tuple[list[Kept], float]:
        tasks = [asyncio.create_task(_ask(middle)) for _ in range(STREAMS)]
        memory = 0.0
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0.5)
            memory = max(memory, middle.memory())
        return [await task for task in tasks], memory

    streams, memory = asyncio.run(all_of_them())
    written = {_arguments(stream.chunks_of_chat) for stream in streams}
    assert len(streams) == STREAMS and len(written) == 1
    (arguments,) = written
    assert json.loads(arguments)["content"].count(" w") == CHUNKS - 5
    assert memory < 150, f"{memory:.0f} MB"


def _arguments(chunks: list[dict[str, Any]]) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["tool_calls"]
    calls = [call for choice in choices for call in choice["delta"].get("tool_calls", ())]
    return "".join(call["function"]["arguments"] for call in calls)
