"""The embedded model's tokenizer, from the vocabulary inside its GGUF file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import tiktoken
from llguidance import LLTokenizer

from abruzzi.engines.local.gguf import read_metadata
from abruzzi.protocol import tokens
from abruzzi.protocol.errors import EngineError
from abruzzi.protocol.prompt import Control, Prompt
from abruzzi.protocol.variants import QWEN25, SMOLLM2

# llama.cpp's pre-tokenizers of the models that are known here, as one pattern each. SmolLM2 splits every digit off and
# then cuts as GPT-2 did: white space before a digit is therefore whole, while GPT-2 would leave its last blank to the
# next word.
_PATTERNS = {
    b"smollm": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+",
    b"qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+",
}
_VARIANTS = {b"smollm": SMOLLM2, b"qwen2": QWEN25}
# Characters that tiktoken gets at once: it panics on a run of about a million white space characters
# (https://github.com/openai/tiktoken/issues/195). No longer text fits any context, but for one of nothing else.
_AT_ONCE = 400_000
_NORMAL = 1  # llama.cpp's token type of text; all others are control tokens, or unused


class Tokenizer:
    """Text to token ids and back, for a byte-level BPE vocabulary whose merges are in the order of its ids."""

    def __init__(self, model: Path) -> None:
        metadata = read_metadata(model)
        kind = metadata.get("tokenizer.ggml.pre")
        if kind not in _PATTERNS:
            raise ValueError(f"expected the tokenizer of SmolLM2 or Qwen2.5, got {kind!r}")
        names, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
        ranks: dict[bytes, int] = {}
        self.controls: dict[str, int] = {}
        for id, (token, token_type) in enumerate(zip(names, types, strict=True)):
            if token_type == _NORMAL:
                ranks[_bytes(token.decode())] = id
            else:
                self.controls[token.decode()] = id
        # SmolLM2 has no token for some bytes, six control characters among them. tiktoken panics without, so they get
        # ids behind the vocabulary; `encode` leaves them out, as llama.cpp does.
        self._ranks, self._pattern = ranks, _PATTERNS[kind]
        absent = {bytes((byte,)) for byte in range(256)} - ranks.keys()
        self.encoding = tiktoken.Encoding(
            model.stem,
            pat_str=self._pattern,
            mergeable_ranks=ranks | {byte: id for id, byte in enumerate(absent, len(names))},
            special_tokens=self.controls,
        )
        self._control_ids = frozenset(self.controls.values())
        self.eos: int = metadata["tokenizer.ggml.eos_token_id"]
        self.vocabulary_size = len(names)
        self.context_length: int = metadata[f"{metadata['general.architecture'].decode()}.context_length"]
        self.variant = _VARIANTS[kind]

    def encode(self, prompt: Prompt) -> list[int]:
        """The ids of a prompt: control tokens only where the template put them."""
        ids: list[int] = []
        for part in prompt.parts:
            if isinstance(part, Control):
                ids.append(self.controls[part])
            else:
                ids += self.encode_text(part)
        return ids

    def encode_text(self, text: str) -> list[int]:
        """The ids of plain text: never a control token."""
        ids: list[int] = []
        for start in range(0, len(text), _AT_ONCE):
            found = self.encoding.encode_ordinary(text[start : start + _AT_ONCE])
            ids += [id for id in found if id < self.vocabulary_size]
        return ids

    def decode(self, ids: Sequence[int]) -> bytes:
        """The bytes of some tokens, control tokens left out. A character may be split between two tokens."""
        return self.encoding.decode_bytes([id for id in ids if id not in self._control_ids])

    def is_whole(self, id: int) -> bool:
        """Whether the token ends no character in the middle."""
        try:
            self.decode([id]).decode()
        except UnicodeDecodeError:
            return False
        return True

    def for_grammars(self) -> LLTokenizer:
        """The vocabulary as llguidance wants it. Takes about 0.1 s: keep it."""
        # What `lltokenizer_from_encoding` does, which would take the bytes that the vocabulary lacks for tokens.
        return LLTokenizer.from_tiktoken(  # type: ignore[attr-defined, no-any-return]
            encoder=self._ranks,
            special_tokens=self.controls,
            pattern=self._pattern,
            eos_token=self.eos,
            n_vocab=self.vocabulary_size,
        )


class Counter(tokens.Tokenizer):
    """The same vocabulary, with the face that a served model's tokenizer has."""

    def __init__(self, own: Tokenizer) -> None:
        self.controls = own.controls
        self.spellings = {id: Control(spelling) for spelling, id in own.controls.items()}
        self._own, self._encoding = own, own.encoding

    def encode(self, text: str) -> list[int]:
        return self._own.encode_text(text)

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        return self._own.encode(prompt)

    def decode(self, ids: Iterable[int]) -> str:
        ids, size = list(ids), self._own.vocabulary_size
        if wrong := [id for id in ids if not 0 <= id < size]:
            raise EngineError(f"expected token ids below {size}, got {wrong[0]}")
        return super().decode(ids)


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
