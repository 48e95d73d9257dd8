"""What a server may be told."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Literal

from abruzzi.server.limits import Rate


@dataclass(frozen=True, slots=True)
class Settings:
    host: str = "127.0.0.1"
    """The address or name that it listens on."""
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    """Who has one of them comes in; where there are none, everybody does."""
    allow_hosts: tuple[str, ...] = ()
    """Names in the Host header that a loopback server answers to, beside those of loopback and its own."""
    allow_origins: tuple[str, ...] = ()
    """Origins whose web pages may read the answers; `*` is all of them."""
    max_body: int = 64 << 20
    """Bytes of the longest body that is read."""
    max_concurrent: int = 1024
    """Requests that are answered at once; more are told to come again."""
    rate: Rate | None = None
    """Requests from one key, or from one address where there are no keys."""
    grace: float = 30.0
    """Seconds that open requests have to end when the server is told to stop."""
    log: Literal["text", "json"] | None = None
    """How the line a request is written to stderr; None writes none."""
    log_content: bool = False
    """Whether that line holds what was asked and what the model wrote."""

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a name or an address means this machine alone. Browsers never ask the network for `localhost`, nor for
    names under it (RFC 6761, 6.3).
    """
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
