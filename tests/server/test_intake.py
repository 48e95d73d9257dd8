"""Bodies on their way in."""

from __future__ import annotations

import gc
import json
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from abruzzi.engines.scripted import ScriptedEngine
from abruzzi.server.exchange import Exchange
from tests.server.asking import CHAT, HELLO, MESSAGES, Serve, ask, read_all
from tests.server.test_metrics import metrics


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_a_body_that_is_too_large_is_refused_as_such(serve: Serve, path: str) -> None:
    served = serve(ScriptedEngine(["Hello."]), max_body=1000)
    told = ask(served, path, {**HELLO, "metadata": {"user_id": "x" * 1000}})
    assert (told.status, "at most 1,000 bytes" in told.json["error"]["message"]) == (413, True)
    kind = "invalid_request_error" if path == CHAT else "request_too_large"
    assert told.json["error"]["type"] == kind
    assert ask(served).status == 200


def test_one_that_is_far_too_large_gets_its_answer_too(serve: Serve) -> None:
    served = serve(ScriptedEngine(["Hello."]), max_body=1 << 20)
    assert ask(served, CHAT, b"x" * (50 << 20)).status == 413


def test_one_of_unknown_length_is_read_no_further(serve: Serve) -> None:
    served = serve(ScriptedEngine(["Hello."]), max_body=100_000)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        connection.sendall(head + b"20000\r\n" + b"x" * 0x20000 + b"\r\n")
        assert connection.recv(12) == b"HTTP/1.1 413"


def begun(port: int, length: int, begin: bytes, path: str = CHAT) -> socket.socket:
    """A connection on which a request has been sent up to somewhere in its body."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode())
    connection.sendall(begin)
    return connection


def wait_until(so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_that_doesnt_come_is_waited_for_a_while(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abruzzi.server.intake._SILENCE", 0.2)
    served = serve(ScriptedEngine(["Hello."]))
    with begun(served.port, 9, b"{") as connection:
        told = read_all(connection)
    assert told.startswith(b"HTTP/1.1 408") and b"more of the body within 0.2 s" in told and b"got 1 bytes" in told
    wait_until(lambda: served.app.intake.is_empty)


BODY = json.dumps(HELLO).encode()


def trickle(connection: socket.socket, body: bytes, step: int, pause: float) -> None:
    for at in range(0, len(body), step):
        time.sleep(pause)
        try:
            connection.sendall(body[at : at + step])
        except OSError:
            return


def test_one_that_comes_slowly_is_waited_for(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abruzzi.server.intake._SILENCE", 0.5)
    monkeypatch.setattr("abruzzi.server.intake._LEAST_RATE", 40)
    served = serve(ScriptedEngine(["Hello."]))
    with begun(served.port, len(BODY), b"") as connection:
        trickle(connection, BODY, 10, 0.15)  # 67 bytes a second, for twice the silence
        assert connection.recv(12) == b"HTTP/1.1 200"


def test_one_that_trickles_is_not(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("abruzzi.server.intake._SILENCE", 0.5)
    served = serve(ScriptedEngine(["Hello."]))
    with begun(served.port, len(BODY), b"") as connection:
        began = time.monotonic()
        trickle(connection, BODY[:-1], 5, 0.1)
        told = connection.recv(1 << 16)
    assert time.monotonic() - began < 2
    assert told.startswith(b"HTTP/1.1 408") and b"16,384 bytes a second" in told


# Of a body in its middle


def test_it_takes_no_place_of_those_that_are_answered(serve: Serve) -> None:
    engine = ScriptedEngine(["Hello."])
    served = serve(engine, max_concurrent=1)
    slow = [begun(served.port, len(BODY), BODY[:9]) for _ in range(3)]
    try:
        wait_until(lambda: len(served.app.intake.reading) == 3)
        assert "abruzzi_requests_at_work 0.0" in ask(served, "/metrics").body.decode()
        assert ask(served).status == 200
        for connection in slow:  # and each has its turn
            connection.sendall(BODY[9:])
            assert connection.recv(12) == b"HTTP/1.1 200"
    finally:
        for connection in slow:
            connection.close()
    assert len(engine.prompts) == 4


def test_who_comes_to_its_end_when_all_places_are_taken_is_told_to_come_again(serve: Serve) -> None:
    engine = ScriptedEngine(["x" * 100_000], cut=list, delay=0.002)
    served = serve(engine, max_concurrent=1)
    with begun(served.port, len(BODY), BODY[:9]) as slow:
        wait_until(lambda: len(served.app.intake.reading) == 1)
        with begun(served.port, len(BODY), BODY):
            wait_until(lambda: len(served.app.intake.open) == 1)
            slow.sendall(BODY[9:])
            assert slow.recv(12) == b"HTTP/1.1 429"
    assert len(engine.prompts) == 1


def test_a_client_that_leaves_it_is_forgotten(serve: Serve) -> None:
    served = serve(ScriptedEngine(["Hello."]))
    with begun(served.port, 9, b"{"):
        wait_until(lambda: len(served.app.intake.reading) == 1)
    wait_until(lambda: served.app.intake.is_empty)


def test_a_server_that_stops_waits_for_it_and_then_says_so(serve: Serve) -> None:
    served = serve(ScriptedEngine(["Hello."]), grace=0.5)
    with begun(served.port, len(BODY), BODY[:9]) as whole, begun(served.port, 9, b"{") as part:
        wait_until(lambda: len(served.app.intake.reading) == 2)
        served.server.should_exit = True
        wait_until(lambda: served.app.is_stopping)
        whole.sendall(BODY[9:])
        assert whole.recv(12) == b"HTTP/1.1 200"
        told = read_all(part)
    assert told.startswith(b"HTTP/1.1 503") and b"the server is stopping" in told


# Of many


def test_what_is_kept_of_all_of_them_has_a_limit(serve: Serve) -> None:
    served = serve(ScriptedEngine(["Hello."]), max_body=200_000)
    size = 200_000
    halves = [begun(served.port, size, b"{" + b" " * (size - 2)) for _ in range(5)]  # 134 kB of each count
    try:
        wait_until(lambda: sum(served.app.intake.reading.values()) == 5 * (size - 1 - 65_536))
        long = {**HELLO, "metadata": {"a": "x" * 199_000}}
        told = ask(served, CHAT, long)
        assert (told.status, told.headers["retry-after"]) == (503, "1")
        assert ask(served, MESSAGES, {**long, "max_tokens": 9}).json["error"]["type"] == "overloaded_error"
        counted = metrics(served)
        assert counted["abruzzi_errors_total", "NoRoom"] == 2
        assert counted["abruzzi_engine_failures_total", "scripted"] == 0  # it was never asked
        # One of usual length finds room.
        assert ask(served, CHAT, {**HELLO, "metadata": {"a": "x" * 60_000}}).status == 200
        halves.pop().close()
        wait_until(lambda: len(served.app.intake.reading) == 4)
        assert ask(served, CHAT, long).status == ask(served, f"{MESSAGES}/count_tokens", long).status == 200
    finally:
        for connection in halves:
            connection.close()
    wait_until(lambda: served.app.intake.is_empty)
    assert served.app.intake._room == 4 * 200_000


def test_what_was_refused_is_gone_at_once(serve: Serve) -> None:
    def exchanges() -> int:
        return sum(type(one) is Exchange for one in gc.get_objects())

    served = serve(ScriptedEngine(["Hello."]), max_body=10_000)
    gc.collect()
    gc.disable()
    of_others = exchanges()  # what tests before this one left
    try:
        for body in (b"x" * 9_000, b"[1]", {**HELLO, "messages": 3}, b"x" * 20_000):
            assert ask(served, CHAT, body).status in (400, 413)
        wait_until(lambda: exchanges() <= of_others)
    finally:
        gc.enable()


def test_the_longest_finds_room_four_times(serve: Serve) -> None:
    served = serve(ScriptedEngine(["Hello."]), max_body=1 << 20)
    body = {**HELLO, "metadata": {"a": "x" * ((1 << 20) - 200)}}
    with ThreadPoolExecutor(4) as pool:
        assert {told.status for told in pool.map(lambda _: ask(served, CHAT, body), range(20))} == {200}
