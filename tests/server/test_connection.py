"""Heads, and what is no HTTP, byte by byte."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from typing import Any

import pytest

from abruzzi.engines.scripted import ScriptedEngine
from tests.server.asking import CHAT, HELLO, MESSAGES, Serve, ask, read_all, streamed

HEAD = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize("more", [b"X-Long: " + b"x" * 100_000, b"X-Short: x\r\n" * 10_000])
def test_a_head_without_end_is_refused(serve: Serve, more: bytes) -> None:
    served = serve(ScriptedEngine([""]))
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        connection.sendall(HEAD + more)
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ") and b"\r\nconnection: close" in head
    assert json.loads(body)["error"]["message"] == "expected a head of at most 65,536 bytes"
    assert ask(served, "/health", headers={"X-Long": "x" * 50_000}).status == 200


@pytest.mark.parametrize("begin", [b"", HEAD, HEAD + b"\r\n" + HEAD])
def test_a_head_that_doesnt_come_isnt_waited_for(serve: Serve, begin: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abruzzi.server.connection._HEAD_PATIENCE", 0.3)
    served = serve(ScriptedEngine(["x" * 100], cut=list, delay=0.01))
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        connection.sendall(begin)
        began = time.monotonic()
        assert read_all(connection).count(b"HTTP/1.1 200") == begin.count(b"\r\n\r\n")
        assert time.monotonic() - began < 3
    # An answer may take longer.
    assert ask(served).status == 200


def test_a_connection_that_is_kept_waits_longer(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abruzzi.server.connection._HEAD_PATIENCE", 0.2)
    served = serve(ScriptedEngine([""]))
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)) as connection:
        for _ in range(3):
            connection.request("GET", "/health")
            assert connection.getresponse().read()
            kept = connection.sock
            time.sleep(0.4)
            assert connection.sock is kept
        kept.setblocking(False)
        with pytest.raises(BlockingIOError):  # it is still open
            kept.recv(1)


def post(path: str, body: bytes, more: bytes = b"") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n".encode()
    return head + more + b"\r\n" + body


def answered(port: int, *sent: bytes) -> list[tuple[bytes, bytes]]:
    """The heads and bodies of all responses up to the end of the connection, of which none may be chunked."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        for one in sent:
            connection.sendall(one)
        rest = read_all(connection)
    responses = []
    while rest:
        head, _, rest = rest.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        responses.append((head, rest[:length]))
        rest = rest[length:]
    return responses


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_a_long_head_in_one_piece_is_refused_in_its_dialect(serve: Serve, path: str) -> None:
    engine = ScriptedEngine(["Hello."])
    served = serve(engine)
    body = json.dumps({**HELLO, "max_tokens": 9}).encode()
    for more in (b"X-Long: " + b"x" * 66_000 + b"\r\n", b"X-Short: x\r\n" * 6_000):
        ((head, told),) = answered(served.port, post(path, body, more))
        assert head.startswith(b"HTTP/1.1 431 ") and b"\r\nconnection: close" in head
        error = json.loads(told)
        assert error["error"]["type"] == "invalid_request_error" and ("type" in error) == (path == MESSAGES)
    assert not engine.prompts


def test_the_path_counts_as_part_of_the_head(serve: Serve) -> None:
    served = serve(ScriptedEngine([""]))
    ((head, _),) = answered(served.port, b"GET /" + b"x" * 66_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", "Invalid method encountered"),
        (b"GET / HTTP/9.9\r\n\r\n", "Invalid HTTP version"),
        (b"GET / HTTP/1.1\r\nHost localhost\r\n\r\n", "Invalid header token"),
        (b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n", ""),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "Content-Length"),
    ],
)
def test_what_is_no_http_is_told_in_json(
    serve: Serve, sent: bytes, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    served = serve(ScriptedEngine([""]), log="json")
    ((head, body),) = answered(served.port, sent)
    assert head.startswith(b"HTTP/1.1 400 ") and b"\r\nconnection: close" in head
    assert b"\r\ncontent-type: application/json" in head and b"\r\nx-request-id: req_" in head
    error = json.loads(body)["error"]
    assert error["type"] == "invalid_request_error" and "expected a request of HTTP/1.1" in error["message"]
    assert reason in error["message"]
    logged = json.loads(capfd.readouterr().err.splitlines()[-1])
    assert (logged["status"], logged["path"], logged["error"]) == (400, "-", "NotHttp")
    assert 'abruzzi_requests_total{path="other",status="400"' in ask(served, "/metrics").body.decode()


def test_what_came_before_is_answered_first(serve: Serve) -> None:
    served = serve(ScriptedEngine(["x" * 50], cut=list, delay=0.005))
    whole, refused = answered(served.port, post(CHAT, json.dumps(HELLO).encode()) + b"no HTTP\r\n\r\n", b"more")
    assert whole[0].startswith(b"HTTP/1.1 200 ") and b"x" * 50 in whole[1]
    assert refused[0].startswith(b"HTTP/1.1 400 ") and b"connection: close" in refused[0]


def test_a_stream_isnt_spoilt_by_what_follows(serve: Serve) -> None:
    served = serve(ScriptedEngine(["x" * 50], cut=list, delay=0.005))
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        connection.sendall(post(CHAT, json.dumps(streamed()).encode()) + b"no HTTP\r\n\r\n")
        rest = read_all(connection)
    stream, _, refused = rest.partition(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    assert stream.count(b'"content":"x"') == 50 and refused.startswith(b"HTTP/1.1 400 ")


CHUNKED = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"


@pytest.mark.parametrize("before", [b"", post(CHAT, json.dumps(HELLO).encode())])
def test_a_body_that_breaks_is_told(serve: Serve, before: bytes) -> None:
    served = serve(ScriptedEngine(["Hello."]))
    *_, (head, body) = responses = answered(served.port, before + CHUNKED, b"no length\r\n")
    assert len(responses) == (2 if before else 1)
    assert head.startswith(b"HTTP/1.1 400 ") and "chunk size" in json.loads(body)["error"]["message"]
    deadline = time.monotonic() + 5
    while not served.app.intake.is_empty and time.monotonic() < deadline:
        time.sleep(0.01)
    assert served.app.intake.is_empty
    assert ask(served).status == 200


def test_garbage_of_any_kind_leaves_the_server_well(serve: Serve) -> None:
    served = serve(ScriptedEngine(["Hello."]))
    good: Any = post(CHAT, json.dumps(HELLO).encode())
    for at in range(0, len(good), 7):
        for spoilt in (good[:at] + b"\x00" + good[at:], good[:at] + b"\r\n\r\n" + good[at:]):
            with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
                connection.sendall(spoilt)
                connection.shutdown(socket.SHUT_WR)
                assert connection.recv(9) in (b"HTTP/1.1 ", b"")
    assert ask(served).status == 200
