"""Hundreds of streams at once, between processes of their own."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("uvloop")

from bench.server_client import Kept, Order, ask, many
from bench.server_middles import abruzzi, engine

STREAMS, CHUNKS, PACE = 512, 60, 80


def test_512_streams_at_once_are_all_right() -> None:
    with engine() as source, abruzzi(source.port, "call") as middle:
        found = asyncio.run(many(middle, STREAMS, CHUNKS, PACE))
    assert (found.right, found.faults) == (STREAMS, [])
    assert found.memory_mb < 150, f"{found.memory_mb:.0f} MB"


def test_what_is_not_as_the_engine_wrote_it_is_told() -> None:
    with engine() as source, abruzzi(source.port, "call") as middle:
        kept = asyncio.run(ask(middle, Order(20, 0, "both", seed=1), Kept))
    assert kept.faults(Order(20, 0, "both", seed=1)) == ""
    assert all(part in kept.faults(Order(20, 0, "both", seed=2)) for part in ("text: ' w01", "arguments: '{"))
    assert "calls: ['write_file'] for []" in kept.faults(Order(20, 0, "text", seed=1))
