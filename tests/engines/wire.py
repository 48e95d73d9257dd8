"""An engine's side of the wire, written byte by byte on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from abruzzi.engines.base import Engine, Piece, SamplingParams
from abruzzi.engines.completions import CompletionsEngine
from abruzzi.engines.ways import Ways
from abruzzi.protocol.messages import Message
from abruzzi.protocol.prompt import Prompt
from abruzzi.protocol.template import render_prompt
from abruzzi.protocol.variants import K2

HI = render_prompt([Message("user", "Hi")], variant="k2")
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
Answer = Callable[["Wire", asyncio.StreamWriter], Awaitable[None]]


def chunk(text: str, reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"text": text, "finish_reason": reason, **more}]}


def sse(*values: Any, end: bytes = b"\n") -> bytes:
    """Events, as they are or of JSON."""
    said = (one if isinstance(one, bytes) else json.dumps(one, ensure_ascii=False).encode() for one in values)
    return b"".join(b"data: " + one + end + end for one in said)


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data) if data else b""


def response(data: bytes, status: str = "200 OK", kind: str = "text/event-stream") -> bytes:
    """A whole one."""
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


WHOLE = response(sse(chunk("Hello."), chunk("", "stop"), b"[DONE]"))


@dataclass
class Wire:
    """What a server has seen, and what it does with each request."""

    answer: Answer
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    connections: int = 0
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    come: asyncio.Condition = field(default_factory=asyncio.Condition)
    _port: int = 0

    async def start(self) -> None:
        """Listen, always at the same port."""
        self._server = await asyncio.start_server(self.serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}/v1"

    async def stop(self) -> None:
        """Take no more connections."""
        self._server.close()
        await self._server.wait_closed()

    async def until(self, count: int) -> None:
        """Wait for so many requests."""
        async with self.come:
            await self.come.wait_for(lambda: len(self.asked) >= count)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            with contextlib.suppress(ConnectionError):
                await self._answer_all(reader, writer)
        finally:
            self.closed.set()
            writer.close()

    async def _answer_all(self, reader: asyncio.StreamReader | Pushed, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                break
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            self.asked.append(json.loads(await reader.readexactly(int(length[15:]))))
            async with self.come:
                self.come.notify_all()
            answering = asyncio.ensure_future(self.answer(self, writer))
            leaving = asyncio.ensure_future(reader.read(1))
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                answering.cancel()
                break
            answering.result()
            if writer.is_closing():
                break
            reader = Pushed(leaving, reader)  # the first byte of the next request


class Pushed:
    """A reader of whose next request one byte may have been read."""

    def __init__(self, first: asyncio.Future[bytes], reader: asyncio.StreamReader | Pushed) -> None:
        self._first = first
        self._reader: Any = reader
        self._begun = False

    async def readuntil(self, end: bytes) -> bytes:
        first = b"" if self._begun else await self._first
        self._begun = True
        return first + bytes(await self._reader.readuntil(end))

    async def readexactly(self, count: int) -> bytes:
        return bytes(await self._reader.readexactly(count))

    async def read(self, count: int) -> bytes:
        return bytes(await self._reader.read(count))


@contextlib.asynccontextmanager
async def wired(answer: Answer | bytes, **options: Any) -> AsyncIterator[tuple[CompletionsEngine, Wire]]:
    """An engine whose server answers like this: always with the same bytes, or as a function does."""
    said = answer

    async def same(_: Wire, writer: asyncio.StreamWriter) -> None:
        assert isinstance(said, bytes)
        writer.write(said)
        await writer.drain()

    wire = Wire(same if isinstance(answer, bytes) else answer)
    await wire.start()
    engine = CompletionsEngine(wire.url, model="kimi-k2", variant=K2, **{"ways": Ways(), **options})
    try:
        yield engine, wire
    finally:
        await engine.aclose()
        await wire.stop()


async def pieces(engine: Engine, params: SamplingParams | None = None, prompt: Prompt = HI) -> list[Piece]:
    async with contextlib.aclosing(engine.complete(prompt, params or SamplingParams(), None)) as several:
        return [piece async for piece in several]


async def text(engine: Engine, params: SamplingParams | None = None, prompt: Prompt = HI) -> str:
    return "".join(piece.text for piece in await pieces(engine, params, prompt))
