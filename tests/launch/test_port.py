"""The engine's port, and whose it is."""

from __future__ import annotations

import socket
import sys

import pytest

from abruzzi.engines.launch.child import Child
from abruzzi.engines.launch.port import engine_port
from tests.launch.launched import until
from tests.ports import free_port

LISTENS = (
    "import socket, time; s = socket.create_server(('127.0.0.1', {port})); print('up', flush=True); time.sleep(60)"
)


def test_it_is_far_above_ours_and_below_those_that_the_system_gives() -> None:
    ours = free_port()
    with engine_port(ours) as port:
        assert port == ours + 10_000
    for unfit in (0, 22_768, 32_767, 45_000):
        with engine_port(unfit) as port:
            assert 17_000 < port < 19_000
    with engine_port(22_767) as port:
        assert 31_767 < port < 32_768


def test_no_other_launch_is_given_it_meanwhile() -> None:
    ours = free_port()
    with engine_port(ours) as first, engine_port(ours) as second:
        assert first == ours + 10_000 and second != first
    with engine_port(ours) as again:
        assert again == first


def test_one_that_is_taken_is_left_alone() -> None:
    ours = free_port()
    with socket.create_server(("127.0.0.1", ours + 10_000)), engine_port(ours) as port:
        assert port > ours + 10_000


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells")
def test_whose_a_port_is() -> None:
    port, lines = free_port(), list[str]()
    # What listens is a child of a child, in a session of its own.
    words = ("sh", "-c", f'setsid {sys.executable} -c "{LISTENS.format(port=port)}" & wait')
    with Child(words, show=lines.append, grace=1) as child:
        assert child.listens_at(port) is None
        until(lambda: "up" in lines, "a listener", 20)
        assert child.listens_at(port) is True
        with socket.create_server(("127.0.0.1", 0)) as other:
            assert child.listens_at(other.getsockname()[1]) is False
