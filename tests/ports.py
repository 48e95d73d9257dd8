"""Ports for servers that are started by another process a moment later."""

from __future__ import annotations

import itertools
import os
import random
import socket

# A launch takes the next free port for its engine, so each stands a few above the last one. All are below those that
# systems hand out by themselves (from 32768 on Linux): one of them could be a connection's before the server comes.
_STEP, _EACH, _FIRST = 10, 2500, 10_000
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
_candidates = itertools.cycle(range(_FIRST + _EACH * _WORKER, _FIRST + _EACH * (_WORKER + 1), _STEP))
for _ in range(random.randrange(_EACH // _STEP)):  # other runs on this machine begin elsewhere
    next(_candidates)


def free_port() -> int:
    """A port of loopback that nobody listens at now, and that no other test of this run is given."""
    for port in itertools.islice(_candidates, _EACH // _STEP):
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no port is free from {_FIRST} on")
