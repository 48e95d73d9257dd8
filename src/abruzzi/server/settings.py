"""What a server may be told."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Settings:
    max_body: int = 64 << 20
    """Bytes of the longest body that is read."""
