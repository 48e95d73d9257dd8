"""The port of a launched engine: a free one of loopback, which no other launch is given meanwhile."""

from __future__ import annotations

import contextlib
import errno
import itertools
import socket
import sys
from collections.abc import Iterable, Iterator

from abruzzi.protocol.errors import EngineUnavailable

LOOPBACK = "127.0.0.1"
# How far above ours it is: launches side by side listen on ports side by side.
_ABOVE = 10_000
# From this one on Linux gives ports to whoever asks: one of them could be another's before the engine comes to take it.
_GIVEN = 32_768
# Where it is sought if there is none so far above ours.
_ELSEWHERE = 18_000
_TRIES = 1000


@contextlib.contextmanager
def engine_port(ours: int) -> Iterator[int]:
    """A port for the engine behind a server on `ours`, 0 where that isn't known. No other launch on this machine is
    given it until the `with` block is left, or this process ends (Linux). Raises EngineUnavailable.
    """
    for port in _candidates(ours):
        with contextlib.ExitStack() as held:
            if _is_held(port, held) and _is_free(port):
                yield port
                return
    raise EngineUnavailable(f"no port is free on {LOOPBACK} for the engine: give another --port")


def _candidates(ours: int) -> Iterable[int]:
    first = ours + _ABOVE if 0 < ours < _GIVEN - _ABOVE else _ELSEWHERE
    return itertools.chain(range(first, min(first + _TRIES, _GIVEN)), range(first - 1, first - _TRIES, -1))


def _is_held(port: int, held: contextlib.ExitStack) -> bool:
    """Whether no other launch holds it; this one does then. By a name of Linux's own, which no folder, user or mask
    stands behind, and which is gone with the process.
    """
    if sys.platform != "linux":
        return True
    name = held.enter_context(socket.socket(socket.AF_UNIX))
    try:
        name.bind(f"\0abruzzi-engine-{port}")
    except OSError as error:
        return error.errno != errno.EADDRINUSE
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
