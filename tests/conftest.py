from __future__ import annotations

import asyncio
import json
import math
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from abruzzi import EngineUnavailable, Tool, connect
from abruzzi.engines.base import Engine
from abruzzi.server import listener
from abruzzi.server.app import create_app
from abruzzi.server.settings import Settings
from abruzzi.server.telemetry import Telemetry

# A machine whose cores are busy is no failure. `--hypothesis-profile hot` looks long and hard.
settings.register_profile("default", deadline=None)
settings.register_profile(
    "hot", deadline=None, max_examples=100_000, suppress_health_check=list(HealthCheck), database=None
)
settings.load_profile("default")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"

WEATHER = Tool(
    "get_weather",
    "Get the weather of a city.",
    {
        "type": "object",
        "properties": {
            "location": {"type": "string", "description": "Name of the city"},
            "unit": {"type": "string", "enum": ["c", "f"]},
        },
        "required": ["location"],
    },
)
PING = Tool("ping", "Check the connection.")


def section(*calls: tuple[str, str]) -> str:
    """K2's wire form of some calls, each (id, arguments)."""
    inner = "".join(
        f"<|tool_call_begin|>{id}<|tool_call_argument_begin|>{arguments}<|tool_call_end|>" for id, arguments in calls
    )
    return f"<|tool_calls_section_begin|>{inner}<|tool_calls_section_end|>"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The shared test data, which lies beside a checkout and not in it."""
    if not SHARED.is_dir():
        pytest.skip("the shared test data is not beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def embedded() -> Iterator[Engine]:
    """The real embedded model; its weights (98 MB) are fetched where they aren't cached."""
    try:
        engine = connect()
    except EngineUnavailable as error:
        pytest.skip(f"the embedded model can't be had here: {error}")
    yield engine
    asyncio.run(engine.aclose())


@pytest.fixture(scope="session", autouse=True)
def compiled() -> Iterator[None]:
    """Where Python may not write bytecode, a process that a test starts compiles all that it imports, for half a second
    each: these share it, out of the tree.
    """
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        if "PYTHONDONTWRITEBYTECODE" in os.environ:
            patch.delenv("PYTHONDONTWRITEBYTECODE")
            patch.setenv("PYTHONPYCACHEPREFIX", folder)
        yield


class Prompt(listener.Listener):
    """Stops as soon as it is told to: uvicorn looks ten times a second."""

    async def main_loop(self) -> None:
        await self.on_tick(0)
        await listener._until(lambda: self.should_exit, math.inf)


class Served:
    """An engine behind a real socket, in a thread of its own."""

    def __init__(self, engine: Engine, telemetry: Telemetry | None = None, **settings: Any) -> None:
        self.socket = listener.listen("127.0.0.1", 0)
        self.port: int = self.socket.getsockname()[1]
        self.base_url = f"http://127.0.0.1:{self.port}/v1"
        self.app = create_app(engine, Settings(**{"grace": 0.5, **settings}), telemetry)
        self.server = Prompt(self.app)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)
        self.socket.close()


class Unclosed:
    """An engine that outlives the server in front of it."""

    def __init__(self, engine: Engine) -> None:
        self.capabilities = engine.capabilities
        self.complete = engine.complete
        for name in ("health", "look"):
            if (method := getattr(engine, name, None)) is not None:
                setattr(self, name, method)

    async def aclose(self) -> None:
        pass


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Serves engines until the test is over."""
    running: list[Served] = []

    def start(engine: Any, **settings: Any) -> Served:
        running.append(Served(Unclosed(engine), **settings))
        return running[-1]

    yield start
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listener, "_ON_THEIR_WAY", 0)  # the test has all its answers
        for served in running:
            served.server.should_exit = True
        for served in running:
            served.stop()


class Completions(BaseHTTPRequestHandler):
    """Speaks the protocol byte by byte."""

    status = 200
    body = b""
    bodies: Sequence[bytes] = ()
    """Where there are any: what it answers, one after another."""
    asked: list[dict[str, Any]]

    def do_GET(self) -> None:
        self.reply(200, b'{"data": [{"id": "kimi-k2"}]}')

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if b"abruzzi_probe" in body:  # whether it obeys a grammar
            return self.reply(400, b"{}")
        self.asked.append(json.loads(body))
        self.reply(self.status, self.bodies[len(self.asked) - 1] if self.bodies else self.body)

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


CompletionsServer = tuple[str, type[Completions]]


@pytest.fixture
def completions() -> Iterator[CompletionsServer]:
    handler = type("Handler", (Completions,), {"asked": []})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}", handler
    http.shutdown()
    http.server_close()


def events(*chunks: Any) -> bytes:
    lines = [b"data: " + json.dumps(chunk, ensure_ascii=False).encode() + b"\n\n" for chunk in chunks]
    return b": comment\n\n" + b"".join(lines) + b"data: [DONE]\n\n"
