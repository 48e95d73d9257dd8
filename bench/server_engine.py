"""An engine for `bench/server.py` that costs as little as Python can: it streams what it was told to, at a pace.

    python bench/server_engine.py PORT

Speaks HTTP/1.1 by hand. `/v1/completions` has K2's raw text, `/v1/chat/completions` the same number of chunks of
OpenAI's chat API, for peers that only pass those on. The prompt or message tells how: `CHUNKS=200 PACE=5 KIND=text` (or
`call`), PACE in milliseconds between two chunks.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from typing import ClassVar, cast

from uvloop import run

_ORDER = re.compile(rb"CHUNKS=(\d+) PACE=(\d+) KIND=(\w+)")
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_CALL = "<|tool_calls_section_begin|><|tool_call_begin|>functions.write_file:0<|tool_call_argument_begin|>"
_END = "<|tool_call_end|><|tool_calls_section_end|>"


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def completion(text: str, reason: str | None = None) -> bytes:
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "kimi-k2"}
    return b"data: " + json.dumps({**head, "choices": [choice]}).encode() + b"\n\n"


def chat(text: str, reason: str | None = None) -> bytes:
    delta = {"content": text} if reason is None else {}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "kimi-k2"}
    return b"data: " + json.dumps({**head, "choices": [choice]}).encode() + b"\n\n"


_USAGE = {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}
_DONE = b"data: " + json.dumps({"id": "1", "choices": [], "usage": _USAGE}).encode() + b"\n\ndata: [DONE]\n\n"
_WORDS = [f" w{n:02}" for n in range(97)]


def frames(kind: str, count: int, *, is_chat: bool) -> list[bytes]:
    """`count` chunks and the end."""
    spelled = chat if is_chat else completion
    if kind == "call" and not is_chat:
        begin = [_CALL.replace("|>f", "|>\0f"), '{"path": "a.py", "content": "']
        head = [*begin[0].split("\0"), begin[1]]
        texts = [*head, *(_WORDS[i % 97] for i in range(count - len(head) - 2)), '"}', _END]
    else:
        texts = [_WORDS[i % 97] for i in range(count)]
    return [*(chunked(spelled(text)) for text in texts), chunked(spelled("", "stop") + _DONE) + b"0\r\n\r\n"]


class Connection(asyncio.Protocol):
    made: ClassVar[dict[tuple[bytes, bool], list[bytes]]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.data = b""
        self.task: asyncio.Task[None] | None = None

    def connection_lost(self, error: Exception | None) -> None:
        if self.task is not None:
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        self.data += data
        head, found, body = self.data.partition(b"\r\n\r\n")
        if not found:
            return
        if head.startswith(b"GET"):
            self.data = b""
            reply = b'{"object": "list", "data": [{"id": "kimi-k2", "object": "model"}]}'
            self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ")
            self.transport.write(b"%d\r\n\r\n%b" % (len(reply), reply))
            return
        length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
        if length is None:  # a client that sends its body in chunks
            if not body.endswith(b"0\r\n\r\n"):
                return
        elif len(body) < int(length[1]):
            return
        self.data = b""
        order = _ORDER.search(body)
        if order is None:
            reply = b'{"error": {"message": "no order in the prompt"}}'
            self.transport.write(b"HTTP/1.1 400 Bad\r\ncontent-length: %d\r\n\r\n%b" % (len(reply), reply))
            return
        key = order[0], b"chat/" in head.partition(b"\r\n")[0]
        if key not in self.made:
            self.made[key] = frames(order[3].decode(), int(order[1]), is_chat=key[1])
        self.task = asyncio.create_task(self.answer(self.made[key], int(order[2]) / 1000))

    async def answer(self, frames: list[bytes], pace: float) -> None:
        loop = asyncio.get_running_loop()
        self.transport.write(_HEAD)
        due = loop.time()
        for frame in frames:
            if self.transport.is_closing():
                return
            self.transport.write(frame)
            due += pace
            if pace and (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", port, backlog=4096)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    run(main(int(sys.argv[1])))
