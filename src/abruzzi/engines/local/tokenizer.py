"""The embedded model's tokenizer, from the vocabulary inside its GGUF file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tiktoken
from llguidance import LLTokenizer
from llguidance.tiktoken import lltokenizer_from_encoding

from abruzzi.engines.local.gguf import read_metadata
from abruzzi.protocol.template import Control, Prompt

# SmolLM2 splits every digit off and then cuts as GPT-2 did (llama.cpp's pre-tokenizer `smollm`). White space before a
# digit is therefore whole, while GPT-2 would leave its last blank to the next word.
_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+"
_CONTROL = 3  # llama.cpp's token type of control tokens


class Tokenizer:
    """Text to token ids and back, for a byte-level BPE vocabulary whose merges are in the order of its ids."""

    def __init__(self, model: Path) -> None:
        metadata = read_metadata(model)
        kind = metadata.get("tokenizer.ggml.pre", metadata.get("tokenizer.ggml.model"))
        if kind != b"smollm":
            raise ValueError(f"expected a model with SmolLM2's tokenizer, got {kind!r}")
        tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
        ranks: dict[bytes, int] = {}
        self.controls: dict[str, int] = {}
        for id, (token, token_type) in enumerate(zip(tokens, types, strict=True)):
            if token_type == _CONTROL:
                self.controls[token.decode()] = id
            else:
                ranks[_bytes(token.decode())] = id
        self.encoding = tiktoken.Encoding(
            "smollm2", pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens=self.controls
        )
        self._control_ids = frozenset(self.controls.values())
        self.eos: int = metadata["tokenizer.ggml.eos_token_id"]
        self.vocabulary_size = len(tokens)
        self.context_length: int = metadata["llama.context_length"]

    def encode(self, prompt: Prompt) -> list[int]:
        """The ids of a prompt: control tokens only where the template put them."""
        ids: list[int] = []
        for part in prompt.parts:
            if isinstance(part, Control):
                ids.append(self.controls[part])
            else:
                ids += self.encoding.encode_ordinary(part)
        return ids

    def decode(self, ids: Sequence[int]) -> bytes:
        """The bytes of some tokens, control tokens left out. A character may be split between two tokens."""
        return self.encoding.decode_bytes([id for id in ids if id not in self._control_ids])

    def for_grammars(self) -> LLTokenizer:
        """The vocabulary as llguidance wants it. Takes about 0.1 s: keep it."""
        return lltokenizer_from_encoding(self.encoding, n_vocab=self.vocabulary_size, eos_token=self.eos)


def _byte_characters() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes: https://github.com/openai/gpt-2/blob/master/src/encoder.py"""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    table |= {chr(256 + i): byte for i, byte in enumerate(others)}
    return table


_BYTE_OF = _byte_characters()


def _bytes(token: str) -> bytes:
    return bytes(_BYTE_OF[character] for character in token)
