"""A completion that several engines bring: what has come so far, and what the next one is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from abruzzi.engines.asking import counter_of, tokens_of
from abruzzi.engines.base import Capabilities, Piece, SamplingParams, Usage
from abruzzi.guide.grammar import Grammar
from abruzzi.protocol.prompt import Control, Prompt, escape


class Handover:
    """What has come of a completion so far, on whatever engines, and what is left to ask for."""

    def __init__(
        self, prompt: Prompt, params: SamplingParams, grammar: Grammar | None, capabilities: Capabilities
    ) -> None:
        self._prompt, self._params, self._grammar = prompt, params, grammar
        self._tokenizer, self._counter = capabilities.tokenizer, counter_of(capabilities)
        self._parts: list[str] = []
        self._ids: list[int] = []  # that are no whole character yet
        self._is_by_id = self._tokenizer is not None
        self._spent = 0  # tokens of engines that failed

    @property
    def has_begun(self) -> bool:
        return bool(self._parts)

    @property
    def is_spent(self) -> bool:
        return self._params.max_tokens is not None and self._spent >= self._params.max_tokens

    def rest(self) -> tuple[Prompt, SamplingParams, Grammar | None]:
        """What the next engine is asked."""
        if not self._parts:
            return self._prompt, self._params, self._grammar
        grammar = None if self._grammar is None else self._grammar.behind(self._grammar.written + self._spelled())
        limit = self._params.max_tokens
        params = self._params if limit is None else replace(self._params, max_tokens=limit - self._spent)
        if self._is_by_id:  # what is a control token is known
            return self._prompt.ending_in(self._parts), params, grammar
        return self._prompt.going_on("".join(self._parts)), params, grammar

    def passed(self, piece: Piece) -> Sequence[Piece]:
        """The piece as the pool's own. Half a character is kept back: no engine could go on behind it."""
        if self._tokenizer is not None and (piece.ids or self._ids):
            self._ids += piece.ids
            parts = self._tokenizer.detokenizer().feed(self._ids)
            whole = self._tokenizer.decode(self._ids)
            if len("".join(parts)) < len(whole) and piece.finish_reason is None:
                return ()
            self._parts += parts
            piece = msgspec.structs.replace(piece, ids=tuple(self._ids))
            self._ids = []
        elif piece.text:
            self._is_by_id = False
            self._parts.append(piece.text)
        if piece.usage is None or not self._spent:
            return (piece,)
        # What came of other engines was a part of this one's prompt, and is a part of the output.
        told = piece.usage
        read = max(0, told.prompt - self._spent)
        usage = Usage(read, told.completion + self._spent, min(told.cached, read), told.forced)
        return (msgspec.structs.replace(piece, usage=usage),)

    def interrupted(self) -> None:
        """The engine failed."""
        self._ids = []
        text = "".join(self._parts)
        self._spent = tokens_of(text, self._prompt.variant, self._counter) if text else 0

    def _spelled(self) -> str:
        if not self._is_by_id:
            return "".join(self._parts)
        variant = self._prompt.variant
        return "".join(part if isinstance(part, Control) else escape(part, variant) for part in self._parts)
