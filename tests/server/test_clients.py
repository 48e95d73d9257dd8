"""Clients that leave, and clients that don't read."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from abruzzi.engines.scripted import ScriptedEngine
from tests.conftest import Served
from tests.server.asking import CHAT, HELLO, MESSAGES, Serve, ask, raw, streamed


@pytest.mark.parametrize("path", [CHAT, MESSAGES, "/v1/responses"])
@pytest.mark.parametrize("stream", [False, True])
def test_the_engine_is_stopped_at_once_when_the_client_leaves(serve: Serve, path: str, stream: bool) -> None:
    engine = ScriptedEngine(["x" * 100_000], cut=list, delay=0.005)
    served = serve(engine)
    body = {**HELLO, "input": "Hello!", "max_tokens": 99_999, "stream": stream}
    # On a machine that is busy with other things one of three may come late.
    assert min(_seconds_to_stop(served, engine, path, body) for _ in range(3)) < 0.3


def _seconds_to_stop(served: Served, engine: ScriptedEngine, path: str, body: dict[str, object]) -> float:
    asked, closed = len(engine.prompts), engine.closed
    with raw(served.port, body, path) as connection:
        if body["stream"]:
            assert connection.recv(12) == b"HTTP/1.1 200"
        while len(engine.prompts) == asked:
            time.sleep(0.005)
    left = time.monotonic()
    while engine.closed == closed and time.monotonic() < left + 5:
        time.sleep(0.005)
    return time.monotonic() - left


def test_a_client_that_leaves_before_its_body_is_whole_does_no_harm(serve: Serve) -> None:
    engine = ScriptedEngine(["Hello."])
    served = serve(engine)
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", served.port)) as connection:
            connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{")
    assert ask(served).status == 200 and len(engine.prompts) == 1
    assert not served.app.intake.open


class Torrent(ScriptedEngine):
    """Writes a million characters as fast as it can, each on its own: as chunks they are 200 MB."""

    def __init__(self) -> None:
        super().__init__(["x" * 1_000_000], cut=self._counted)
        self.written = 0

    def _counted(self, text: str):  # type: ignore[no-untyped-def]
        for character in text:
            self.written += 1
            yield character


def test_a_client_that_doesnt_read_holds_the_engine_up_and_costs_no_memory(serve: Serve) -> None:
    engine = Torrent()
    served = serve(engine)
    before = _resident()
    with raw(served.port, streamed()):
        written = -1
        while written != engine.written or not written:  # until it stands still
            written = engine.written
            time.sleep(0.5)
        # What the kernel's buffers took.
        assert written < 100_000
        assert _resident() - before < 50 << 20
        # Others are served meanwhile.
        assert ask(served, "/health").status == 200
    deadline = time.monotonic() + 5
    while not engine.closed and time.monotonic() < deadline:
        time.sleep(0.01)
    assert engine.closed == 1 and engine.written < written + 1000


def _resident() -> int:
    """Bytes of this process, the server's too."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("Linux tells it here")
    (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) << 10


def test_a_slow_client_gets_everything(serve: Serve) -> None:
    engine = ScriptedEngine(["x" * 20_000], cut=list)
    with raw(serve(engine).port, streamed()) as connection:
        got = b""
        while not got.endswith(b"0\r\n\r\n"):
            part = connection.recv(50_000)
            assert part
            got += part
            time.sleep(0.005)
    assert got.count(b'"content":"x"') == 20_000 and b"data: [DONE]" in got
