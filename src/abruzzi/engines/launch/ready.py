"""When an engine is ready: its weights are loaded, and it says which model it serves."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Callable

from abruzzi.engines.launch.child import Child
from abruzzi.engines.served import KeyRefused, Served, served
from abruzzi.protocol.errors import EngineTimeout, EngineUnavailable

# Seconds between two looks; for an answer to a look.
_PAUSE = 0.25
_PATIENCE = 5.0


def wait_until_ready(
    child: Child,
    name: str,
    port: int,
    *,
    limit: float,
    key: str | None,
    descends: bool,
    tick: Callable[[float, str], object],
) -> Served:
    """Wait until the engine on this port of loopback is well and lists a model. `descends`: whether its processes are
    the child's. `tick` hears how many seconds have gone by, and why it isn't ready. Raises EngineUnavailable where it
    ends before, wants another key, or where another process listens there; EngineTimeout after `limit` seconds.
    """
    began = time.monotonic()
    reason = "nothing listens yet"
    while True:
        elapsed = time.monotonic() - began
        if child.has_ended:
            child.wait()
            raise EngineUnavailable(f"{name} {child.ending} after {elapsed:.0f} s, before it was ready{said_by(child)}")
        if elapsed > limit:
            raise EngineTimeout(
                f"{name} isn't ready after {limit:g} s ({reason}): --startup-timeout says how long it may take"
                f"{said_by(child)}"
            )
        tick(elapsed, reason)
        status = _health(port)
        reason = f"GET /health{': ' if isinstance(status, str) else ' answers '}{status}"
        if descends and child.listens_at(port) is False:
            raise EngineUnavailable(
                f"what answers on port {port} isn't {name}: another process took it while that was loading; launch it"
                " again"
            )
        # A server without that path is asked for its models, and one that lets nobody in says so there.
        if status in (200, 404, 401, 403):
            try:
                found = served(f"http://127.0.0.1:{port}/v1", None, key)
            except KeyRefused:
                raise
            except EngineUnavailable as error:
                reason = str(error)
            else:
                if not child.has_ended:
                    return found
        time.sleep(_PAUSE)


def said_by(child: Child) -> str:
    """The last of its log, below a message."""
    lines = child.last_lines
    return "; it said last:" + "".join(f"\n    {line}" for line in lines) if lines else "; it said nothing"


def _health(port: int) -> int | str:
    """The status that the engine answers with, or why there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
    with contextlib.closing(connection):
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status
        except (OSError, http.client.HTTPException) as error:
            return getattr(error, "strerror", None) or str(error) or type(error).__name__
