"""Outputs that have no end."""

from __future__ import annotations

# So many blocks of characters, each of which repeats one short period, are no text any more (failure 55 in another
# form), and neither is an output that is longer than any context.
_BLOCK = 4_096
_MAX_BLOCKS = 8
_MAX_PERIOD = 64
_MAX_LENGTH = 1_000_000


class Length:
    """Measures one output of an engine."""

    def __init__(self) -> None:
        self._length = 0
        self._block = ""
        self._repeats = 0  # blocks in a row that repeat a period

    def add(self, text: str) -> None:
        self._length += len(text)
        self._block += text
        while len(self._block) >= _BLOCK:
            block, self._block = self._block[:_BLOCK], self._block[_BLOCK:]
            repeats = any(block[period:] == block[:-period] for period in range(1, _MAX_PERIOD))
            self._repeats = self._repeats + 1 if repeats else 0

    @property
    def is_endless(self) -> bool:
        """Whether it says the same over and over, or more than any context holds."""
        return self._repeats >= _MAX_BLOCKS or self._length > _MAX_LENGTH
