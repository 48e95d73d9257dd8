"""Who answers while the engine loads."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import anthropic
import openai
import pytest

from abruzzi.server.listener import listen
from abruzzi.server.loading import Loading
from tests.server.asking import CHAT, ask, raw, read_all


@contextlib.contextmanager
def loading() -> Iterator[tuple[int, socket.socket]]:
    with listen("127.0.0.1", 0) as listening, Loading(listening):
        yield listening.getsockname()[1], listening


def test_every_path_says_when_to_come_again() -> None:
    with loading() as (port, _):
        for path, body in (("/health", None), (CHAT, {"messages": []}), ("/", None)):
            answer = ask(port, path, body)
            assert (answer.status, answer.headers["retry-after"]) == (503, "3")
            assert answer.json["status"] == "loading" and answer.json["error"]["code"] == "engine_unavailable"


def test_it_is_an_error_of_both_apis_with_an_id() -> None:
    with loading() as (port, _):
        for given, told in (("mine 1", "mine 1"), ("x" * 129, "req_"), (None, "req_")):
            answer = ask(port, CHAT, headers={} if given is None else {"X-Request-Id": given})
            assert answer.headers["x-request-id"].startswith(told) and answer.headers["request-id"]
        url = f"http://127.0.0.1:{port}"
        with (
            anthropic.Anthropic(base_url=url, api_key="none", max_retries=0) as client,
            pytest.raises(anthropic.APIStatusError) as refused,
        ):
            client.messages.create(model="any", max_tokens=9, messages=[{"role": "user", "content": "Hi"}])
        assert (refused.value.type, refused.value.status_code) == ("overloaded_error", 503)
        assert (refused.value.request_id or "").startswith("req_")
        with (
            openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as other,
            pytest.raises(openai.InternalServerError) as failed,
        ):
            other.models.list()
        assert failed.value.code == "engine_unavailable" and "is loading" in failed.value.message


def test_a_long_body_does_not_cost_the_answer() -> None:
    with loading() as (port, _), raw(port, {"x": "y" * (4 << 20)}) as connection:
        assert b"503 Service Unavailable" in read_all(connection)


def test_a_head_may_come_in_parts() -> None:
    with loading() as (port, _), socket.create_connection(("127.0.0.1", port), timeout=5) as slow:
        for byte in b"GET / HTTP/1.1\r\n\r\n":
            slow.sendall(bytes([byte]))
            time.sleep(0.002)
        assert slow.recv(12) == b"HTTP/1.1 503"


def test_who_says_nothing_and_who_never_ends_keep_nobody_waiting() -> None:
    with contextlib.ExitStack() as stack:
        with loading() as (port, _):
            silent, endless = (stack.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(2))
            endless.sendall(b"POST / HTTP/1.1\r\n\r\nx")
            began = time.monotonic()
            assert ask(port, "/health").status == 503
        assert time.monotonic() - began < 1  # nor does the end wait for them
        silent.settimeout(5)
        with contextlib.suppress(ConnectionResetError):
            assert silent.recv(1) == b""


def test_nobody_is_listened_to_for_longer_than_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abruzzi.server.loading._PATIENCE", 0.1)
    with loading() as (port, _), raw(port, {}) as connection:
        deadline = time.monotonic() + 5
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < deadline:
                connection.sendall(b"x")
                time.sleep(0.02)
        assert time.monotonic() < deadline


def test_the_socket_is_left_for_the_server() -> None:
    with listen("127.0.0.1", 0) as listening:
        with Loading(listening):
            pass
        with socket.create_connection(listening.getsockname()) as waiting:
            listening.setblocking(True)
            connection, _ = listening.accept()
            with connection:
                connection.sendall(b"x")
            assert waiting.recv(1) == b"x"
