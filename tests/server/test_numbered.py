"""Clients that may not see what runs here aren't told where engines are."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from abruzzi import connect
from abruzzi.engines.scripted import ScriptedEngine
from abruzzi.protocol.errors import AbruzziError, EngineError, EngineUnavailable, RequestError
from abruzzi.server.numbered import Numbered
from tests.conftest import Completions, CompletionsServer
from tests.engines.wire import chunk, sse
from tests.server.asking import CHAT, HELLO, MESSAGES, Serve, ask

ELSEWHERE = {"host": "0.0.0.0"}
DIALECTS = [
    (CHAT, HELLO),
    (MESSAGES, {**HELLO, "max_tokens": 9}),
    ("/v1/responses", {"input": "Hello!"}),
    ("/v1/completions", {"prompt": "Hello!"}),
]


class Rows(ScriptedEngine):
    """Made of engines at these URLs."""

    def __init__(self, *urls: str | None) -> None:
        super().__init__([""])
        self.urls = urls

    def health(self) -> list[dict[str, str | None]]:
        return [{"url": url, "model": "k2", "status": "ok"} for url in self.urls]


NUMBERED = Numbered(Rows("http://a.internal:1/v1", "https://b/v1", None, "http://[::1]:80/x/v1"))


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("http://a.internal:1/v1/completions answered 500: it died", "engine 1 answered 500: it died"),
        ("nothing answers at https://b/v1: Connection refused", "nothing answers at engine 2: Connection refused"),
        ("[::1]:80/x: http://[::1]:80/x/v1 broke off; b: no", "engine 4: engine 4 broke off; engine 2: no"),
        ("certificate is not valid for 'a.internal'.", "certificate is not valid for engine 1."),
        (
            "it redirects to http://c:1/v1, not http://a.internal:11",
            "it redirects to another address, not another address",
        ),
        ("no a.internal:12, no ab, no CUDA", "no a.internal:12, no ab, no CUDA"),
    ],
)
def test_an_engine_is_called_by_its_number(said: str, told: str) -> None:
    error = NUMBERED.error(EngineUnavailable(said, 7.0))
    assert isinstance(error, EngineUnavailable) and (str(error), error.retry_after) == (told, 7.0)


def test_what_is_no_engines_stays_as_it_is() -> None:
    for error in (RequestError("at http://a.internal:1/v1", "x"), EngineError("it died")):
        assert NUMBERED.error(error) is error
    assert isinstance(Numbered(ScriptedEngine([""])).error(EngineError("http://c")), AbruzziError)


def broken_off(self: Completions) -> None:
    self.rfile.read(int(self.headers["Content-Length"]))
    self.send_response(200)
    self.send_header("Content-Length", "9999")
    self.end_headers()
    self.wfile.write(self.body)
    self.close_connection = True


@pytest.fixture
def down() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(("path", "body"), DIALECTS)
@pytest.mark.parametrize("stream", [False, True])
def test_no_dialect_tells_of_an_address(
    serve: Serve, completions: CompletionsServer, down: str, path: str, body: dict[str, object], stream: bool
) -> None:
    url, handler = completions
    handler.body = sse(chunk("Hello, "))
    handler.do_POST = broken_off  # type: ignore[method-assign]
    for engine, words in ((down, "nothing answers at engine 1"), (url, "engine 1 broke off")):
        told = ask(serve(connect(engine, model="kimi-k2"), **ELSEWHERE), path, {**body, "stream": stream}).body.decode()
        assert words in told and "127.0.0.1" not in told


def test_neither_do_health_and_metrics(serve: Serve, completions: CompletionsServer, down: str) -> None:
    url, _ = completions
    served = serve(connect([url, down]), **ELSEWHERE)
    assert ask(served, "/health").json == {"status": "degraded"}
    told = ask(served, "/metrics").body.decode()
    assert 'abruzzi_engine_up{engine="engine 1"} 1.0' in told and 'abruzzi_engine_up{engine="engine 2"} 0.0' in told
    assert "127.0.0.1" not in told


def test_who_has_a_key_is_told(serve: Serve, down: str) -> None:
    served = serve(connect(down, model="kimi-k2"), api_keys=("sk-one",), **ELSEWHERE)
    told = ask(served, headers={"X-Api-Key": "sk-one"})
    assert told.status == 503 and down in json.loads(told.body)["error"]["message"]
