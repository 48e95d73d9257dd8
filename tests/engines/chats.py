"""A host of K2 that offers chat alone, on a real socket, and says what it was told to."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from abruzzi.engines.chat_only import ChatEngine
from abruzzi.protocol.variants import K2, Variant
from tests.conftest import events as sse

USAGE = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 5}}


class Chats(BaseHTTPRequestHandler):
    """Completions are refused as `refuses` says. Of what it is asked the last answer is given again and again."""

    status = 200
    bodies: Sequence[bytes] = ()
    asked: list[dict[str, Any]]
    refuses: tuple[int, bytes] = (404, b'{"error": {"message": "not found"}}')

    def do_GET(self) -> None:
        self.reply(200, b'{"data": [{"id": "kimi-k2"}]}')

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            return self.reply(*self.refuses)
        if asked["messages"] == [{"role": "user", "content": "Hello"}]:  # whether it is there
            return self.reply(200, b'{"choices": []}')
        self.asked.append(asked)
        self.reply(self.status, self.bodies[min(len(self.asked), len(self.bodies)) - 1])

    def reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if body.startswith(b"{") else "text/event-stream")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def delta(reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": reason}]}


def part(
    arguments: Any = None, name: str | None = None, index: int | None = 0, id: str | None = None
) -> dict[str, Any]:
    """A part of a call."""
    function = {"name": name, "arguments": arguments}
    return {"index": index, "id": id, "type": "function", "function": function}


def calling(*parts: dict[str, Any]) -> dict[str, Any]:
    return delta(tool_calls=list(parts))


def answer(*chunks: dict[str, Any], reason: str = "stop") -> bytes:
    return sse(*chunks, delta(reason), USAGE)


def call(arguments: str, name: str = "get_weather") -> bytes:
    """An answer that is this call, in parts of three characters."""
    parts = [arguments[at : at + 3] for at in range(0, len(arguments), 3)]
    begin = calling(part("", name, id=f"functions.{name}:0"))
    return answer(begin, *(calling(part(text)) for text in parts), reason="tool_calls")


@contextlib.contextmanager
def host(*bodies: bytes, **fields: Any) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Its URL, and what it is asked."""
    handler: Any = type("Host", (Chats,), {"asked": [], "bodies": bodies, **fields})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{http.server_port}/v1", handler.asked
    finally:
        http.shutdown()
        http.server_close()


def engine_at(url: str, variant: Variant = K2) -> ChatEngine:
    return ChatEngine(url, model="kimi-k2", variant=variant)


def in_chunks(text: str, length: int) -> Sequence[dict[str, Any]]:
    """Content in chunks of so many characters."""
    return [delta(content=text[at : at + length]) for at in range(0, len(text), length)]
