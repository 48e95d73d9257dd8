"""An engine for `bench/server.py` that costs as little as Python can: it streams what it was told to, at a pace.

    python bench/server_engine.py PORT [ORDER]

Speaks HTTP/1.1 by hand. `/v1/completions` has K2's raw text, `/v1/chat/completions` the same number of chunks of
OpenAI's chat API, for peers that only pass those on. The prompt or message tells how: `CHUNKS=200 PACE=5 KIND=text`,
PACE in milliseconds between two chunks, each of which is one word. KIND is `text`, `call` (all but the head is part of
a call's arguments) or `both` (half of it text, half a call). `SEED=7` begins with another word, so that no two streams
are alike. ORDER holds for requests that have none; without it those get a 400.

`GET /stats`: `{"arrived": when the first byte of the last request came (perf_counter, seconds), "written": chunks,
"late_ms": how much later than due one was written, at most}`, the latter two since they were last asked for.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from functools import cache
from typing import cast

from uvloop import run

_ORDER = re.compile(rb"CHUNKS=(\d+) PACE=(\d+) KIND=(\w+)(?: SEED=(\d+))?")
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_CALL = ("<|tool_calls_section_begin|><|tool_call_begin|>", "functions.write_file:0<|tool_call_argument_begin|>")
_BEGIN = '{"path": "a.py", "content": "'
_END = ('"}', "<|tool_call_end|><|tool_calls_section_end|>")
_USAGE = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
_DONE = b"data: " + json.dumps({"id": "1", "choices": [], "usage": _USAGE}).encode() + b"\n\ndata: [DONE]\n\n"
WORDS = [f" w{n:02}" for n in range(97)]


def words(count: int, seed: int = 0) -> list[str]:
    """One a chunk."""
    return [WORDS[(seed + i) % len(WORDS)] for i in range(count)]


def texts(kind: str, count: int, seed: int = 0) -> list[str]:
    """A completion in `count` chunks."""
    if kind == "text":
        return words(count, seed)
    said = words(count // 2, seed) if kind == "both" else []
    frame = len(_CALL) + 1 + len(_END)
    return [*said, *_CALL, _BEGIN, *words(count - len(said) - frame, seed), *_END]


def said_and_written(kind: str, count: int, seed: int = 0) -> tuple[str, str]:
    """The text and the call's arguments that a client must come to see."""
    whole = "".join(texts(kind, count, seed))
    said, _, call = whole.partition(_CALL[0])
    return said, call.removeprefix(_CALL[1]).removesuffix(_END[1])


@cache
def frame(text: str, is_chat: bool, reason: str | None = None) -> bytes:
    """A chunk on the wire; with a reason the last one, and the end."""
    if is_chat:
        kind, choice = "chat.completion.chunk", {"index": 0, "delta": {"content": text} if reason is None else {}}
    else:
        kind, choice = "text_completion", {"index": 0, "text": text}
    choice |= {"logprobs": None, "finish_reason": reason}
    event = {"id": "cmpl-1", "object": kind, "created": 1, "model": "kimi-k2", "choices": [choice]}
    data = b"data: " + json.dumps(event).encode() + b"\n\n"
    return _chunked(data) if reason is None else _chunked(data + _DONE) + b"0\r\n\r\n"


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def read_order(order: bytes) -> tuple[int, int, str, int]:
    """Chunks, milliseconds between them, what they say, and the seed of it."""
    found = _ORDER.fullmatch(order)
    if found is None:
        raise ValueError(f"expected an order such as CHUNKS=200 PACE=5 KIND=text, got {order!r}")
    return int(found[1]), int(found[2]), found[3].decode(), int(found[4] or 0)


@cache
def frames(order: bytes, is_chat: bool) -> list[bytes]:
    """What an order brings. Equal chunks are the same bytes, so that a thousand orders take little memory."""
    count, _, kind, seed = read_order(order)
    # A peer is given text, and as many chunks.
    spelled = texts("text" if is_chat else kind, count, seed)
    return [*(frame(text, is_chat) for text in spelled), frame("", is_chat, "stop")]


class Stats:
    arrived = 0.0
    written = 0
    late = 0.0

    def told(self) -> bytes:
        value = {"arrived": self.arrived, "written": self.written, "late_ms": self.late * 1000}
        self.written, self.late = 0, 0.0
        return json.dumps(value).encode()


class Connection(asyncio.Protocol):
    def __init__(self, stats: Stats, order: bytes | None) -> None:
        self.stats = stats
        self.order = order
        self.data = bytearray()
        self.began = 0.0
        self.needed = 0
        self.task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        if self.task is not None:
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        if not self.data:
            self.began, self.needed = time.perf_counter(), 0
        self.data += data
        if self.needed == 0:
            end = self.data.find(b"\r\n\r\n") + 4
            if end == 3:
                return
            head = bytes(self.data[:end])
            length = _LENGTH.search(head)
            # A client may send its body in chunks.
            is_whole = head.startswith(b"GET") or length is not None or self.data.endswith(b"0\r\n\r\n")
            if not is_whole:
                return
            self.needed = end + (int(length[1]) if length else 0)
        if len(self.data) >= self.needed:
            request, self.data = bytes(self.data), bytearray()
            self._answer(request)

    def _answer(self, request: bytes) -> None:
        line = request.partition(b"\r\n")[0]
        if line.startswith(b"GET /stats"):
            self._reply(b"200 OK", self.stats.told())
        elif line.startswith(b"GET"):
            self._reply(b"200 OK", b'{"object": "list", "data": [{"id": "kimi-k2", "object": "model"}]}')
        else:
            self.stats.arrived = self.began
            found = _ORDER.search(request)
            order = found[0] if found else self.order
            if order is None:
                self._reply(b"400 Bad Request", b'{"error": {"message": "no order in the prompt"}}')
                return
            pace = read_order(order)[1] / 1000
            self.task = asyncio.create_task(self._stream(frames(order, b"/chat/" in line), pace))

    def _reply(self, status: bytes, body: bytes) -> None:
        head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(body))
        self.transport.write(head + body)

    async def _stream(self, frames: list[bytes], pace: float) -> None:
        loop = asyncio.get_running_loop()
        self.transport.write(_HEAD)
        due = loop.time()
        for data in frames:
            if self.transport.is_closing():
                return
            self.transport.write(data)
            self.stats.written += 1
            due += pace
            if pace and (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)
                self.stats.late = max(self.stats.late, loop.time() - due)
            elif pace:
                self.stats.late = max(self.stats.late, -wait)


async def main(port: int, order: bytes | None) -> None:
    stats = Stats()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(stats, order), "127.0.0.1", port, backlog=4096)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    run(main(int(sys.argv[1]), sys.argv[2].encode() if len(sys.argv) > 2 else None))
