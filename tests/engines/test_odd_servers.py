"""Servers that answer oddly while it is found out what they are: that ends in a finding or in words, and in time."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from click.testing import CliRunner, Result

from abruzzi import EngineUnavailable, connect
from abruzzi.cli import main
from abruzzi.engines.connect import told
from abruzzi.engines.refusal import redirect, refusal
from abruzzi.protocol.errors import PromptTooLong

Answer = tuple[int, Any] | Any
VLLM = {"data": [{"id": "kimi-k2", "owned_by": "vllm"}]}
OBEYS = {"choices": [{"text": "functions.abruzzi_probe_7f3a:0", "finish_reason": "length"}]}
BABBLES = {"choices": [{"text": "blah", "finish_reason": "length"}], "usage": {"prompt_tokens": 1}}


class Odd(BaseHTTPRequestHandler):
    """`completes` answers completions; all else is of vLLM 0.32."""

    completes: Callable[[Mapping[str, Any]], Answer]
    models: Any = VLLM
    metrics = b""

    def do_GET(self) -> None:
        known = {"/v1/models": self.models, "/version": {"version": "0.32"}, "/metrics": self.metrics}
        self.reply(200 if self.path in known else 404, known.get(self.path, {}))

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            count = len(re.findall(r"<[|/]?[a-z_|]+>", asked["prompt"]))
            return self.reply(200, {"tokens": list(range(1000, 1000 + count))})
        answer = type(self).completes(asked) if self.path == "/v1/completions" else (404, {})
        self.reply(*answer) if isinstance(answer, tuple) else self.reply(200, answer)

    def reply(self, status: int, body: Any) -> None:
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def server(completes: Callable[[Mapping[str, Any]], Answer], **fields: Any) -> Iterator[str]:
    http = ThreadingHTTPServer(("127.0.0.1", 0), type("It", (Odd,), {"completes": staticmethod(completes), **fields}))
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{http.server_port}/v1"
    finally:
        http.shutdown()
        http.server_close()


def doctor(url: str) -> Result:
    return CliRunner().invoke(main, ["doctor", url])


def needs_no_bias(asked: Mapping[str, Any]) -> Answer:
    if "logit_bias" in asked:
        return 500, {"error": {"message": "no bias here"}}
    return OBEYS if "structured_outputs" in asked else BABBLES


def test_a_bias_that_fails_hides_no_grammar_that_is_obeyed() -> None:
    with server(needs_no_bias) as url:
        ((line, is_trouble),) = told(connect(url))
        assert "is held to each turn's grammar" in line and not is_trouble
        assert "grammar by structured_outputs.grammar: obeyed" in doctor(url).stdout


def test_a_slow_router_of_another_name_is_found_out() -> None:
    def slowly(asked: Mapping[str, Any]) -> Answer:
        if "grammar" in asked:
            return OBEYS
        time.sleep(min(asked.get("max_tokens", 16), 96) / 15)  # 15 tokens a second
        return BABBLES

    with server(slowly, models={"data": [{"id": "kimi-k2", "owned_by": "self_hosted"}]}) as url:
        ((line, _),) = told(connect(url))
    assert "is held to each turn's grammar" in line


@pytest.mark.parametrize(
    "answer",
    [
        {"choices": [{"text": "a"}], "usage": [1]},
        {"choices": [{"text": "a"}], "usage": {"prompt_tokens": "5"}},
        {"choices": [{"text": "a"}], "usage": {"prompt_tokens": 5, "prompt_tokens_details": [3]}},
    ],
)
def test_counts_of_wrong_types_are_none(answer: Any) -> None:
    with server(lambda _: answer, metrics=b'vllm:num_requests_running{a="b"} NaNx\n') as url:
        done = doctor(url)
        assert done.exit_code == 0 and "a client that leaves: not found out" in done.stdout
        assert "obeys no grammar" in told(connect(url))[0][0]


@pytest.mark.parametrize("text", [["x"], 7])
def test_a_text_that_is_none_is_no_completion(text: Any) -> None:
    with server(lambda _: {"choices": [{"text": text}]}) as url:
        done = doctor(url)
        assert done.exit_code == 1 and 'NO  completions: 200: {"choices":[{"text":' in done.stdout
        ((line, _),) = told(connect(url))  # nor are markers hidden
        assert "obeys no grammar" in line


@pytest.mark.parametrize(
    "models", [b"[" * 200_000, {"data": [{"id": None}]}, {"data": [{"id": {"a": 1}}]}, b"x" * (17 << 20)]
)
def test_a_list_of_models_that_is_none_is_told(models: Any) -> None:
    with server(lambda _: BABBLES, models=models) as url, pytest.raises(EngineUnavailable, match="lists no model"):
        connect(url)


def test_a_list_of_models_that_drips_is_not_waited_for() -> None:
    def drip(self: Any, status: int, body: Any) -> None:
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):
            while True:
                self.wfile.write(b" ")
                time.sleep(0.2)

    begun = time.monotonic()
    with server(lambda _: BABBLES, reply=drip) as url, pytest.raises(EngineUnavailable, match="timed out"):
        connect(url)
    assert time.monotonic() - begun < 10


def test_a_website_is_no_host_of_chats() -> None:
    page = b"<html>Chat with all models</html>"
    with server(lambda _: (200, page), do_POST=lambda self: self.reply(200, page)) as url:
        done = doctor(url)
    assert done.exit_code == 1 and "NO  completions: 200: " in done.stdout


def test_a_redirect_of_chats_tells_the_address_of_the_api() -> None:
    assert redirect("http://a/v1/chat/completions", 302, "https://b/v1/chat/completions").endswith(
        "--engine https://b/v1"
    )


def test_what_was_asked_is_not_taken_for_what_is_wrong() -> None:
    detail = [{"msg": "Field required", "input": {"content": "How large is a context window?"}}]
    error = refusal("http://a/v1/completions", 422, json.dumps({"detail": detail}))
    assert not isinstance(error, PromptTooLong) and str(error).endswith("answered 422: Field required")


def test_a_prompt_that_is_too_long_may_be_told_by_the_code_alone() -> None:
    body = {"error": {"message": "Please reduce the length.", "code": "context_length_exceeded"}}
    assert isinstance(refusal("http://a/v1/chat/completions", 400, json.dumps(body)), PromptTooLong)


@pytest.mark.parametrize(("patience", "found"), [(60.0, "ok  tools: called"), (1.5, "?   tools: not found out")])
def test_a_host_that_thinks_for_long_is_waited_for(
    patience: float, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = {"tool_calls": [{"function": {"name": "abruzzi_probe_7f3a", "arguments": "{}"}}]}

    def chat(self: Odd) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != "/v1/chat/completions":
            return self.reply(404, {})
        time.sleep(2.0 if b"abruzzi_probe" in asked else 0.0)
        self.reply(200, {"choices": [{"message": message}]})

    monkeypatch.setattr("abruzzi.engines.ways._PATIENCE_WITH_OTHERS", 1.0)
    monkeypatch.setattr("abruzzi.engines.ways._PROBE_SECONDS", patience)
    with server(lambda _: BABBLES, models={"data": [{"id": "kimi-k2"}]}, do_POST=chat) as url:
        assert found in doctor(url).stdout


def test_why_no_answer_came_is_told() -> None:
    with server(lambda _: BABBLES) as url:
        pass
    assert "gave no answer: Connection refused" in told(connect(url, model="kimi-k2"))[0][0]
    with server(lambda _: BABBLES, do_GET=lambda self: time.sleep(1)) as url:
        assert "said nothing for 0.1 s" in told(connect(url, model="kimi-k2", timeout=0.1))[0][0]
