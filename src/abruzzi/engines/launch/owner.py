"""Whose a port is that somebody listens on. Linux tells."""

from __future__ import annotations

import contextlib
import socket
import struct
from pathlib import Path

from abruzzi.engines.launch.keeper import descendants

_PROC = Path("/proc")
_LISTENS = "0A"


def _spelled(address: str) -> str:
    """As the kernel's tables have an address of IPv4: a number of the machine's own byte order."""
    return f"{struct.unpack('=I', socket.inet_aton(address))[0]:08X}"


_LOOPBACK = _spelled("127.0.0.1")
_ANY = (_spelled("0.0.0.0"), "0" * 32)


def descends(port: int, ancestor: int) -> bool | None:
    """Whether all that hears a connection to this port of 127.0.0.1 descends from a process; None where that can't be
    seen.
    """
    # One look misses a process that is just losing its parent.
    return _look(port, ancestor) or _look(port, ancestor)


def _look(port: int, ancestor: int) -> bool | None:
    unclaimed = _listening(port)
    if not unclaimed:
        return None
    is_hidden = False
    for pid in descendants(ancestor):
        try:
            for file in (_PROC / str(pid) / "fd").iterdir():
                with contextlib.suppress(FileNotFoundError):
                    unclaimed.discard(str(file.readlink()))
        except PermissionError:
            is_hidden = True
        except OSError:  # it has ended since
            continue
    return (None if is_hidden else False) if unclaimed else True


def _listening(port: int) -> set[str]:
    """The sockets, as links to them read. One that is bound to the address itself hears before one bound to any."""
    found: dict[str, set[str]] = {}
    for table in ("tcp", "tcp6"):
        try:
            rows = (_PROC / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            _, local, _, state, *_, inode = row.split()[:10]
            address, _, number = local.rpartition(":")
            if state == _LISTENS and int(number, 16) == port:
                found.setdefault(address, set()).add(f"socket:[{inode}]")
    return found.get(_LOOPBACK) or set().union(*(found.get(address, ()) for address in _ANY))
