"""Text to K2's tokens and back, as engines do it."""

from __future__ import annotations

import re
from collections.abc import Iterable

from abruzzi.protocol.prompt import Control
from abruzzi.protocol.tokens import Tokenizer
from abruzzi.protocol.variants import K2_CONTROL_IDS

EOS, IM_END, IM_USER = 163585, 163586, 163587
SIZE = 163840
# What K2's tokenizer_config.json has as `special: false`: engines show these even where they hide special tokens.
_SHOWN = frozenset((*range(163595, 163600), 163606, 163607))
_SHOWN_SPELLINGS = frozenset(K2_CONTROL_IDS[id] for id in _SHOWN)
_CONTROLS = re.compile("|".join(map(re.escape, sorted(K2_CONTROL_IDS.values(), key=len, reverse=True))))


def of_bytes() -> Tokenizer:
    """K2's control tokens with a token a byte beside them: for tests that need no real vocabulary."""
    return Tokenizer({bytes([byte]): byte for byte in range(256)}, K2_CONTROL_IDS)


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    """A text's tokens, where what spells a control token is one. K2's tokenizer puts no [BOS] before them."""
    ids: list[int] = []
    end = 0
    for found in _CONTROLS.finditer(text):
        ids += tokenizer.encode(text[end : found.start()])
        ids.append(tokenizer.controls[found[0]])
        end = found.end()
    return ids + tokenizer.encode(text[end:])


def closing(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Tokens that bring what is written to its end: markers, quotes, brackets, commas."""
    return (EOS, IM_END, *sorted(_SHOWN), *(id for text in ('"', ",", "]", "}") for id in tokenizer.encode(text)))


class Spelling:
    """Tokens to text as they come.

    `hides`: special tokens are left out. `spaces`: those that are none and were added to the vocabulary, K2's markers,
    get a space on either side, as transformers 4 has it.
    """

    def __init__(self, tokenizer: Tokenizer, *, hides: bool, spaces: bool = False) -> None:
        self._hides, self._spaces = hides, spaces
        self._detokenizer = tokenizer.detokenizer()
        self._apart: bool | None = None

    def feed(self, ids: Iterable[int]) -> str:
        kept = [id for id in ids if not self._hides or id not in K2_CONTROL_IDS or id in _SHOWN]
        return "".join(map(self._spaced, self._detokenizer.feed(kept)))

    def close(self) -> str:
        return "".join(self._detokenizer.close())

    def whole(self, ids: Iterable[int]) -> str:
        return self.feed(ids) + self.close()

    def _spaced(self, part: str) -> str:
        apart = isinstance(part, Control) and part in _SHOWN_SPELLINGS
        space = " " if self._spaces and self._apart is not None and (apart or self._apart) else ""
        self._apart = apart
        return space + part
