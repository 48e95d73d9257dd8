"""Ports for servers that are started by another process a moment later."""

from __future__ import annotations

import itertools
import os
import random
import socket

# A launch has its engine 10,000 above its own port, or from 18,000 on. Both are below those that systems hand out by
# themselves (from 32768 on Linux): one of them could be a connection's before the server comes.
_EACH, _FIRST = 1000, 10_000
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
_candidates = itertools.cycle(range(_FIRST + _EACH * _WORKER, _FIRST + _EACH * (_WORKER + 1)))
for _ in range(random.randrange(_EACH)):  # other runs on this machine begin elsewhere
    next(_candidates)


def free_port() -> int:
    """A port of loopback that nobody listens at now, and that no other test of this run is given."""
    for port in itertools.islice(_candidates, _EACH):
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError(f"no port is free from {_FIRST} on")
