"""How much is taken on."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from abruzzi import RequestError
from abruzzi.engines.scripted import ScriptedEngine
from abruzzi.server import limits
from abruzzi.server.limits import Buckets, Rate, address
from abruzzi.server.refusals import TooMany
from tests.server.asking import CHAT, HELLO, MESSAGES, Serve, ask, raw, streamed

COUNTS = {"/v1/messages/count_tokens": HELLO, "/v1/responses/input_tokens": {"input": "Hello!"}}


def test_more_at_once_than_allowed_are_told_to_come_again(serve: Serve) -> None:
    engine = ScriptedEngine(["x" * 1000], cut=list, delay=0.002)
    served = serve(engine, max_concurrent=2)
    with ThreadPoolExecutor(2) as pool:
        first = [pool.submit(ask, served, CHAT, body) for body in (HELLO, streamed())]
        while len(engine.prompts) < 2:
            time.sleep(0.01)
        for path, kind in ((CHAT, "invalid_request_error"), (MESSAGES, "rate_limit_error")):
            told = ask(served, path, {**HELLO, "max_tokens": 9})
            assert (told.status, told.headers["retry-after"], told.json["error"]["type"]) == (429, "1", kind)
        for path, body in {**COUNTS, "/health": None}.items():  # this isn't work
            assert ask(served, path, body).status == 200
        assert [one.result().status for one in first] == [200, 200]
    assert ask(served).status == 200


def test_a_client_that_leaves_makes_room(serve: Serve) -> None:
    engine = ScriptedEngine(["x" * 100_000], cut=list, delay=0.002)
    served = serve(engine, max_concurrent=1)
    for _ in range(3):
        with raw(served.port, streamed()) as connection:
            assert connection.recv(12) == b"HTTP/1.1 200"
        deadline = time.monotonic() + 5
        while served.app.intake.open and time.monotonic() < deadline:
            time.sleep(0.01)
    assert engine.closed == 3


def test_a_key_has_a_rate_of_its_own(serve: Serve) -> None:
    served = serve(ScriptedEngine(["Hello."]), api_keys=("a", "b"), rate=Rate(3))
    told = [ask(served, headers={"X-Api-Key": "a"}) for _ in range(4)]
    assert [one.status for one in told] == [200, 200, 200, 429]
    assert 18 <= int(told[-1].headers["retry-after"]) <= 20
    assert ask(served, headers={"Authorization": "Bearer b"}).status == 200
    for path, body in {**COUNTS, "/v1/models": None}.items():  # this costs nothing
        assert ask(served, path, body, headers={"X-Api-Key": "a"}).status == 200


def test_without_keys_an_address_has(serve: Serve) -> None:
    served = serve(ScriptedEngine(["Hello."]), rate=Rate(2))
    spoofed = {"X-Forwarded-For": "10.0.0.1"}
    assert [ask(served, headers=one).status for one in ({}, {}, spoofed)] == [200, 200, 429]


def test_a_bucket_fills_up_steadily(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(limits.time, "monotonic", lambda: now)  # type: ignore[attr-defined]
    buckets = Buckets(Rate(6))
    for _ in range(6):
        buckets.take("a")
    with pytest.raises(TooMany) as told:
        buckets.take("a")
    assert told.value.headers == ((b"retry-after", b"10"),)
    now = 9.5
    with pytest.raises(TooMany) as told:
        buckets.take("a")
    assert told.value.headers == ((b"retry-after", b"1"),)
    now = 10.0
    buckets.take("a")
    now = 1e6
    for _ in range(6):
        buckets.take("a")
    with pytest.raises(TooMany):
        buckets.take("a")


def test_callers_without_end_take_no_memory_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_MAX_CALLERS", 10)
    buckets = Buckets(Rate(1))
    for caller in range(100):
        buckets.take(caller)
    assert len(buckets._buckets) == 10


@pytest.mark.parametrize(
    ("text", "rate"),
    [("60/min", (60, 60)), ("2/s", (2, 1)), ("90/h", (90, 3600)), ("5", (5, 60)), (" 1.5/minute ", (1.5, 60))],
)
def test_rates(text: str, rate: tuple[float, float]) -> None:
    assert Rate.parse(text) == rate


@pytest.mark.parametrize("text", ["", "0", "-1", "5/day", "many", "1e3", "nan"])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(RequestError, match="such as 60/min"):
        Rate.parse(text)


def test_a_network_of_ipv6_is_one_caller() -> None:
    assert address(("2001:db8::1", 1)) == address(("2001:db8::ffff:2", 2)) != address(("2001:db8:0:1::1", 1))
    assert address(("10.0.0.1", 1)) != address(("10.0.0.2", 1))
    assert address(None) == "" and address(("fe80::1%eth0", 1)) == "fe80::1%eth0"
