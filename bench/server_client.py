"""The client of `bench/server.py`: streams by hand, which cost little and miss nothing."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from bench.server_engine import said_and_written
from bench.server_middles import Middle

TOOL = {
    "type": "function",
    "function": {
        "name": "write_file",
        "description": "Write a file.",
        "parameters": {
            "type": "object",
            "properties": {"path": {"type": "string"}, "content": {"type": "string"}},
            "required": ["path", "content"],
        },
    },
}
_SAYS = (b'"content":"', b'"content": "', b'"arguments":"')
"""How a chunk that says something looks."""


@dataclass(frozen=True)
class Order:
    """What the engine is told to stream: `pace` in milliseconds."""

    chunks: int
    pace: int = 0
    kind: str = "text"
    seed: int = 0
    tools: Sequence[Any] = field(default=(), repr=False)

    def request(self, port: int) -> bytes:
        told = f"CHUNKS={self.chunks} PACE={self.pace} KIND={self.kind} SEED={self.seed}"
        body: dict[str, Any] = {
            "model": "kimi-k2",
            "messages": [{"role": "user", "content": told}],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if tools := self.tools or ([TOOL] if self.kind != "text" else []):
            body["tools"] = tools
        data = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
        return f"{head}authorization: Bearer sk-none\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data


class Stream(asyncio.Protocol):
    """One request, and what comes of it."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.began = time.perf_counter()
        self.first: float | None = None
        """Seconds to the first chunk that says something."""
        self.events = 0
        """Chunks that say something."""
        self.words = 0
        """The engine's chunks that they hold: each is a word."""
        self.reads = 0
        self.tail = b""
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.began = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        if self.tail == b"" and not data.startswith(b"HTTP/1.1 200"):
            self._fail(data)
        says = sum(map(data.count, _SAYS))
        if says and self.first is None:
            self.first = time.perf_counter() - self.began
        self.events += says
        self.words += data.count(b" w")
        self.reads += 1
        self.tail = (self.tail + data)[-200:]
        if b"[DONE]" in self.tail and self.tail.endswith(b"0\r\n\r\n"):
            self.transport.close()
            if not self.over.done():
                self.over.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(self.tail)

    def _fail(self, data: bytes) -> None:
        if not self.over.done():
            self.over.set_exception(RuntimeError(data.decode(errors="replace")[:500] or "nothing came"))


class Kept(Stream):
    """Keeps all that comes."""

    def __init__(self, request: bytes) -> None:
        super().__init__(request)
        self.data: list[bytes] = []

    def data_received(self, data: bytes) -> None:
        self.data.append(data)
        super().data_received(data)

    def faults(self, order: Order) -> str:
        """What isn't as the engine wrote it; nothing where all is."""
        lines = b"".join(self.data).replace(b"\r\n", b"\n").split(b"\n")
        chunks = [json.loads(line[6:]) for line in lines if line.startswith(b"data: {")]
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        deltas = [choice["delta"] for choice in choices]
        calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
        got = (
            "".join(delta.get("content") or "" for delta in deltas),
            "".join(call["function"]["arguments"] for call in calls),
            [call["function"]["name"] for call in calls if call["function"].get("name")],
            [choice["finish_reason"] for choice in choices if choice["finish_reason"]],
        )
        written = said_and_written(order.kind, order.chunks, order.seed)
        expected = (*written, ["write_file"] if written[1] else [], ["tool_calls" if written[1] else "stop"])
        names = ("text", "arguments", "calls", "ends")
        differ = [f"{n}: {a!r:.200} for {b!r:.200}" for n, a, b in zip(names, got, expected, strict=True) if a != b]
        return "; ".join(differ)


StreamT = TypeVar("StreamT", bound=Stream)


async def begin(middle: Middle, order: Order, kind: type[StreamT]) -> StreamT:
    """A stream that has been asked for."""
    request = order.request(middle.port)
    _, stream = await asyncio.get_running_loop().create_connection(lambda: kind(request), "127.0.0.1", middle.port)
    return stream


async def ask(middle: Middle, order: Order, kind: type[StreamT]) -> StreamT:
    """A stream that is over. Raises RuntimeError where it didn't come to its end."""
    stream = await begin(middle, order, kind)
    await stream.over
    return stream


async def several(middle: Middle, count: int, at_once: int, order: Order) -> list[Stream]:
    gate = asyncio.Semaphore(at_once)

    async def one() -> Stream:
        async with gate:
            return await ask(middle, order, Stream)

    return list(await asyncio.gather(*(one() for _ in range(count))))


@dataclass
class Many:
    """Streams at once, and how many of them came to be what the engine wrote."""

    streams: int
    right: int
    seconds: float
    memory_mb: float
    """Resident, the server at its peak."""
    faults: list[str]


async def many(middle: Middle, streams: int, chunks: int, pace: int) -> Many:
    """All of them stand open together; each says half of its words and then writes the other half in a call."""
    orders = [Order(chunks, pace, "both", seed) for seed in range(streams)]
    began = time.perf_counter()
    ended = await asyncio.gather(*(ask(middle, order, Kept) for order in orders), return_exceptions=True)
    seconds = time.perf_counter() - began
    told = [one.faults(order) if isinstance(one, Kept) else repr(one) for one, order in zip(ended, orders, strict=True)]
    faults = [fault for fault in told if fault]
    return Many(streams, streams - len(faults), seconds, middle.peak_memory(), faults[:5])


def large_tools(count: int, seed: int) -> list[Any]:
    """Tools of about 580 bytes each, no two of which have a schema in common."""
    return [_large_tool(f"{seed}_{n}") for n in range(count)]


def _large_tool(n: str) -> Any:
    properties = {
        f"path_{n}": {"type": "string", "description": f"Where the record {n} lies."},
        f"kind_{n}": {"type": "string", "enum": [f"draft_{n}", f"final_{n}", "archived"]},
        "limit": {"type": "integer", "minimum": 1, "maximum": 500, "description": "How many are returned at most."},
        "labels": {"type": "array", "items": {"type": "string"}},
    }
    parameters = {"type": "object", "properties": properties, "required": [f"path_{n}"], "additionalProperties": False}
    description = f"Look up the records of kind {n}, and return those that match."
    return {"type": "function", "function": {"name": f"get_{n}", "description": description, "parameters": parameters}}
