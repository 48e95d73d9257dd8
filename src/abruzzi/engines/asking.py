"""What an engine is asked in one turn, once or several times: its output as text, what it cost and how it ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import fields, replace

from abruzzi.engines.base import Capabilities, Engine, Piece, SamplingParams, Usage, name_of
from abruzzi.engines.refusal import Refused
from abruzzi.guide.grammar import Grammar
from abruzzi.protocol.errors import AbruzziError, EngineError, RequestError
from abruzzi.protocol.prompt import Control, Prompt, going_on
from abruzzi.protocol.tokens import Tokenizer
from abruzzi.protocol.variants import Variant

# Of a token, on average, where nobody counts them.
_CHARACTERS = 4
# Characters that are read before others have their turn, which takes up to 15 ms: some engines give all in one piece,
# or thousands of pieces at once. And what a piece takes beside its characters, in characters.
_SLICE = 2_048
_PIECE = 32
# Pieces without a character, of an engine that writes nothing for ever.
_MAX_EMPTY = 10_000


class Asking:
    """Asks an engine for completions and adds up what they cost."""

    def __init__(self, engine: Engine, own: SamplingParams | None = None) -> None:
        """`own` are the client's: an engine that looks for stop sequences in the text gives no ids."""
        self._engine = engine
        self._own = own or SamplingParams()
        tokenizer = engine.capabilities.tokenizer
        self._detokenizer = None if tokenizer is None else tokenizer.detokenizer()
        self.by_id = tokenizer is not None and not self._own.stop
        """Whether the texts are made of token ids: a control token comes by itself, as a `Control`."""
        self._heals = tokenizer is not None
        self.output: list[str] = []
        """All that was written."""
        self.unread = 0
        """Characters at the end of the last completion that are none of the turn's. Where it is broken off they count
        for nothing: how many there are depends on how fast they came.
        """
        self.usage = Usage()
        self.guided = True
        """Whether all completions came to their end within the grammar."""
        self.engine = name_of(engine)
        """What the engine is called that wrote last: of a pool, the one that served."""
        self.end: Piece | None = None
        """How the last completion ended; None where it was broken off."""
        self.logprob: float | None = None
        """How likely the last text was, where it is one token and the engine tells."""
        self.alternatives: Sequence[tuple[str, float]] = ()
        """What else might have come in place of the last text."""

    def healed(self, prompt: Prompt) -> tuple[Prompt, str]:
        """The prompt without its last token, and the text of that: a model that may write it anew can go on from it
        with a longer token, as it would have by itself.
        """
        tokenizer, last = self._engine.capabilities.tokenizer, prompt.parts[-1]
        if tokenizer is None or isinstance(last, Control):
            return prompt, ""
        text = tokenizer.decode(tokenizer.encode(last)[-1:])
        if not last.endswith(text):  # part of a character
            return prompt, ""
        parts = (*prompt.parts[:-1], *filter(None, [last[: -len(text)]]))
        return replace(prompt, parts=parts, base=None, written=""), text

    async def going_on(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[str, None]:
        """A completion of a prompt that ends inside of a turn, and maybe inside of a token: it is healed, and the
        output held to begin as the prompt ended. Where it doesn't, the prompt is asked about as it stands.
        """
        before = self.usage.completion
        if self._heals:
            healed, expected = self.healed(prompt)
            async with contextlib.aclosing(self.texts(healed, params)) as texts:
                async for text in texts:
                    common = 0 if isinstance(text, Control) else min(len(expected), len(text))
                    if (expected and not common) or text[:common] != expected[:common]:
                        break
                    expected = expected[common:]
                    if text[common:]:
                        yield text[common:] if common else text
                else:
                    return
            self._heals = False
        async with contextlib.aclosing(self.texts(prompt, self.left(params, before))) as texts:
            async for text in texts:
                yield text

    async def texts(
        self, prompt: Prompt, params: SamplingParams, grammar: Grammar | None = None
    ) -> AsyncGenerator[str, None]:
        """One completion. Raises EngineError where the engine fails, or ends without a word."""
        self.end, self.unread = None, 0
        length, taken, before = 0, 0, len(self.output)
        try:
            async with contextlib.aclosing(self._engine.complete(prompt, params, grammar)) as pieces:
                count = 0
                async for piece in pieces:
                    self.logprob = piece.logprob
                    if piece.engine is not None:
                        self.engine = piece.engine
                    self.alternatives = piece.alternatives and [one for one in piece.alternatives if _is_text(one[0])]
                    for text in self._texts(piece):
                        length += len(text)
                        taken += len(text) + _PIECE
                        if taken > _SLICE:
                            taken = len(text)
                            await asyncio.sleep(0)  # others are being served, too
                        self.output.append(text)
                        yield text
                    count += 1
                    if self._has_ended(piece, count, length, params.max_tokens):
                        break
            if self.end is None:
                raise EngineError("the engine ended its output without a finish_reason")
        except Refused as error:
            if named := _named(error, self._own, params):
                raise RequestError(f"the engine refuses it: {error.said}", named) from error
            raise
        except AbruzziError:
            raise
        except Exception as error:
            raise EngineError(f"the engine failed: {type(error).__name__}: {error}") from error
        finally:
            self._add(self.end, prompt, before)

    def _texts(self, piece: Piece) -> Iterable[str]:
        if piece.ids:
            if self._detokenizer is None:  # the engine has learned to give them
                tokenizer = self._engine.capabilities.tokenizer
                self._detokenizer = None if tokenizer is None else tokenizer.detokenizer()
            if self._detokenizer is not None:
                return self._detokenizer.feed(piece.ids)
        text = piece.text if _is_text(piece.text) else _as_text(piece.text)
        if 0 < len(text) <= _SLICE:
            return (text,)
        return [text[at : at + _SLICE] for at in range(0, len(text), _SLICE)]

    def _has_ended(self, piece: Piece, count: int, length: int, limit: int | None) -> bool:
        """By its own word, or because it goes on for sure behind the limit that it was given, or without a word."""
        if piece.finish_reason:
            self.end = piece
        elif count > _MAX_EMPTY and not length:
            self.end = Piece(finish_reason="stop")
        elif limit is not None and count > limit and length > 2 * _CHARACTERS * limit:
            self.end = Piece(finish_reason="length")
        return self.end is not None

    def _add(self, end: Piece | None, prompt: Prompt, before: int) -> None:
        """Of a completion that was broken off only its text is known: `output` from `before` on."""
        if end is None and self.unread:
            text = "".join(self.output[before:])
            self.output[before:] = [text[: -self.unread]]
        self.guided = self.guided and end is not None and end.guided
        if end is not None and end.usage is not None:
            more = end.usage
        else:
            counter = counter_of(self._engine.capabilities)
            read = self.usage.prompt or tokens_of_prompt(prompt, counter)
            more = Usage(read, tokens_of("".join(self.output[before:]), prompt.variant, counter))
        usage = self.usage
        self.usage = Usage(
            usage.prompt or more.prompt,
            usage.completion + more.completion,
            usage.cached or more.cached,
            usage.forced + more.forced,
        )

    def left(self, params: SamplingParams, before: int = 0) -> SamplingParams:
        """The same, with what is left of a limit that was set when so many tokens were spent."""
        if params.max_tokens is None:
            return params
        return replace(params, max_tokens=max(1, params.max_tokens - self.usage.completion + before))

    def is_spent(self, params: SamplingParams) -> bool:
        """Whether the limit ended the last completion, or leaves nothing for another."""
        if self.end is not None:
            return self.end.finish_reason == "length"
        return params.max_tokens is not None and self.usage.completion >= params.max_tokens

    @property
    def was_cut(self) -> bool:
        """Whether a limit ended the output."""
        return self.end is not None and self.end.finish_reason == "length"

    @property
    def stopped_by(self) -> str | None:
        """The client's stop sequence that ended the output."""
        return None if self.end is None else self.end.stop


def _named(error: Refused, params: SamplingParams, sent: SamplingParams) -> str | None:
    """The parameter, one of those that are set and were sent like that, of which a refusal speaks."""
    unset, sent = SamplingParams(), replace(sent, temperature=sent.heat)
    for one in fields(SamplingParams):
        value = getattr(params, one.name)
        if getattr(unset, one.name) != value == getattr(sent, one.name) and error.names(one.name):
            return one.name
    return None


def counter_of(capabilities: Capabilities) -> Tokenizer | None:
    """What the engine's tokens can be counted with."""
    return capabilities.counter or capabilities.tokenizer


def tokens_of(text: str, variant: Variant, counter: Tokenizer | None) -> int:
    """How many tokens of the model's a text that it has written is. Without a tokenizer an estimate: one for each
    control token, and of all else one for four characters.
    """
    parts = going_on(text if _is_text(text) else _as_text(text), variant)
    if counter is None:
        return _estimated(parts)
    return sum(1 if isinstance(part, Control) else len(counter.encode(part)) for part in parts)


def tokens_of_prompt(prompt: Prompt, counter: Tokenizer | None) -> int:
    """The same of a prompt."""
    return counter.count(prompt) if counter is not None else _estimated(prompt.parts)


def _estimated(parts: Iterable[str]) -> int:
    tokens = characters = 0
    for part in parts:
        if isinstance(part, Control):
            tokens += 1
        else:
            characters += len(part)
    return tokens - (-characters // _CHARACTERS)


def _is_text(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _as_text(text: str) -> str:
    """Lone surrogates, which an engine's JSON may hold and UTF-8 can't, as U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
