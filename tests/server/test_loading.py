"""Who answers while the engine loads."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

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
            assert (answer.status, answer.headers["retry-after"]) == (503, "10")
            assert answer.json["status"] == "loading" and answer.json["error"]["code"] == "engine_unavailable"


def test_a_long_body_does_not_cost_the_answer() -> None:
    with loading() as (port, _), raw(port, {"x": "y" * (4 << 20)}) as connection:
        assert b"503 Service Unavailable" in read_all(connection)


def test_who_says_nothing_keeps_nobody_waiting_for_long() -> None:
    with loading() as (port, _), socket.create_connection(("127.0.0.1", port)):
        began = time.monotonic()
        assert ask(port, "/health").status == 503
        assert time.monotonic() - began < 5


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
