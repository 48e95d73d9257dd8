"""One completion by llama.cpp, held to a grammar from outside.

llama.cpp generates freely and the grammar is followed here, token by token, in the callback of its stream: that way
what the grammar forces is put into the prompt and read in one batch, six times as fast as it could be generated; and a
token outside the grammar is replaced by the likeliest one inside, of the alternatives that came with it.
"""

from __future__ import annotations

import codecs
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llguidance import LLMatcher

from abruzzi.engines.base import Piece, SamplingParams, Usage
from abruzzi.engines.local.slots import Slots
from abruzzi.engines.local.tokenizer import Tokenizer
from abruzzi.protocol.errors import EngineError

# Alternatives asked for with each token. They cost nothing measurable.
_ALTERNATIVES = 40
_LEAST_TEMPERATURE = 1e-6
# From so many on, reading forced tokens as a prompt is faster than generating them.
_FORCED = 2
# Added to the logits of tokens of which one is to come; the client's own bias, of at most 100, still tells which.
_ALLOWED = 200.0
# Room that is asked for at a time.
_MORE = 1024


@dataclass(eq=False)
class Turn:
    """One completion, run in a thread of its own: llama.cpp is asked for one stretch after another until the turn is
    over.
    """

    server: Any
    tokenizer: Tokenizer
    matcher: LLMatcher | None
    ids: list[int]
    params: SamplingParams
    budget: int
    """Tokens that there is room for by now."""
    limit: int
    """Tokens that there may be."""
    slots: Slots
    slot: int
    emit: Callable[[Piece], object]
    cancelled: bool = False
    over: bool = False
    cached: int | None = None
    generated: int = 0
    forced: int = 0
    failure: BaseException | None = None

    def __post_init__(self) -> None:
        self.prompt_length = len(self.ids)
        self.random = random.Random(self.params.seed)
        self.text = _Text(self.params.stop)

    def run(self) -> Piece | BaseException:
        """Everything but the last piece goes out by `emit`; the last one, or what went wrong, is returned."""
        try:
            self._force()
            while not (self.over or self.cancelled or self._spent()):
                self._stretch()
            usage = Usage(self.prompt_length, self.generated + self.forced, self.cached or 0, self.forced)
            reason: Literal["stop", "length"] = "stop" if self.over else "length"
            guided = self.matcher is not None
            return Piece(self.text.rest(), finish_reason=reason, usage=usage, stop=self.text.stopped_by, guided=guided)
        except BaseException as error:
            return error

    def _spent(self) -> bool:
        """Whether no more may be written: at the limit, or where the others leave no room in the cache."""
        written = self.generated + self.forced
        if written >= self.budget and self.budget < self.limit:
            self.budget += self.slots.extend(self.slot, min(self.limit - self.budget, _MORE))
        return written >= self.budget

    def _stretch(self) -> None:
        """Let llama.cpp generate until the grammar has something to say, or to the end."""
        before = self.generated
        reason = self._ask(self.budget - self.generated - self.forced, {}, self._on_token)
        if reason == "stop" and not self.over:
            # The model ended its turn where the grammar wants more, or where no grammar speaks.
            if self.matcher is None or self.matcher.is_accepting():
                self.over = True
            else:
                self._pick_allowed()
        elif reason == "violation":
            self._pick_allowed()
        elif reason == "length":
            # All that was asked for was generated; what didn't come is the beginning of a character, kept back.
            self.generated = max(self.generated, self.budget - self.forced)
        elif reason is None and self.generated == before and not self.cancelled:
            raise EngineError("llama.cpp ended a completion without a word")

    def _ask(
        self, count: int, options: Mapping[str, Any], on_token: Callable[[Mapping[str, Any]], str | None]
    ) -> str | None:
        """One request to llama.cpp. Returns why it ended: its own finish_reason, or what `on_token` said to stop it
        with.
        """
        reason: str | None = None

        def on_chunk(chunk: Mapping[str, Any]) -> bool:
            nonlocal reason
            try:
                if "error" in chunk:
                    raise EngineError(f"llama.cpp refused: {chunk['error'].get('message', chunk['error'])}")
                choice = chunk["choices"][0]
                for token in (choice["logprobs"] or {}).get("content", ()):
                    reason = on_token(token)
                    if reason:
                        return True
                reason = choice["finish_reason"]
                if self.cached is None and "prompt_progress" in chunk:
                    self.cached = min(chunk["prompt_progress"]["cache"], self.prompt_length)
            except BaseException as error:  # the binding swallows what its callback raises
                self.failure = error
                return True
            return self.cancelled

        self.server.handle_completions(self._request(count, options), on_chunk)
        if self.failure is not None:
            raise self.failure
        return reason

    def _request(self, count: int, options: Mapping[str, Any]) -> dict[str, Any]:
        params, temperature = self.params, self.params.heat or 0.0
        if temperature < _LEAST_TEMPERATURE:  # by which llama.cpp divides, in 32 bits
            temperature = 0.0
        request = {
            "prompt": self.ids,
            "n_predict": count,
            "stream": True,
            # A chunk for every batch of the prompt, so that a caller's leaving is noticed then too.
            "return_progress": True,
            "id_slot": self.slot,
            "cache_prompt": True,
            "temperature": temperature,
            "top_p": 1.0 if params.top_p is None else params.top_p,
            "top_k": max(0, params.top_k or 0),
            "min_p": params.min_p or 0.0,
            "frequency_penalty": params.frequency_penalty or 0.0,
            "presence_penalty": params.presence_penalty or 0.0,
            "repeat_penalty": params.repetition_penalty or 1.0,
            "logit_bias": params.logit_bias,
            "n_probs": _ALTERNATIVES if self.matcher else params.offered or 1,
            "seed": self.random.getrandbits(31),
        }
        return {**request, **options}

    # Tokens

    def _on_token(self, token: Mapping[str, Any]) -> str | None:
        """Take a generated token; says why generation must be interrupted, if it must."""
        ids = self._ids_of(token)
        if self.matcher is None:
            self._accept(ids, logprob=self._logprob(token), alternatives=self._offered(token))
            return "stopped" if self.over else None
        if self.matcher.validate_tokens(ids) == len(ids):
            self.matcher.consume_tokens(ids)
            self._accept(ids)
            return "forced" if self._force() else None
        id = self._alternative(token) if len(ids) == 1 else None
        if id is None:
            return "violation"
        self.matcher.consume_token(id)
        self._accept([id])
        self._force()
        return "replaced"

    def _logprob(self, token: Mapping[str, Any]) -> float | None:
        return None if self.params.logprobs is None else float(token["logprob"])

    def _offered(self, token: Mapping[str, Any]) -> tuple[tuple[str, float], ...]:
        """What else might have come, for a caller who asks for that."""
        if not self.params.offered:
            return ()
        return tuple((str(one["token"]), float(one["logprob"])) for one in token["top_logprobs"])

    def _ids_of(self, token: Mapping[str, Any]) -> list[int]:
        """llama.cpp reports a character that took several tokens under the id of the last; the others are found
        again.
        """
        last, data = token["id"], bytes(token["bytes"])
        own = self.tokenizer.decode([last])
        if len(own) >= len(data):
            return [last]
        encoding = self.tokenizer.encoding
        ids = encoding.encode_ordinary(data.decode("utf-8", "replace"))
        if ids[-1] == last and encoding.decode_bytes(ids) == data:
            return ids
        return [*(encoding.encode_single_token(bytes((byte,))) for byte in data[: len(data) - len(own)]), last]

    def _alternative(self, token: Mapping[str, Any]) -> int | None:
        """One of the offered alternatives that the grammar allows, drawn as the temperature has it."""
        assert self.matcher is not None
        mask = self.matcher.compute_bitmask()
        allowed = [one for one in token["top_logprobs"] if mask[one["id"] >> 3] >> (one["id"] & 7) & 1]
        allowed = [one for one in allowed if one["id"] != self.tokenizer.eos]
        if not allowed:
            return None
        temperature = self.params.heat
        if not temperature:
            return int(max(allowed, key=lambda one: one["logprob"])["id"])
        best = max(one["logprob"] for one in allowed)
        weights = [math.exp((one["logprob"] - best) / temperature) for one in allowed]
        return int(self.random.choices(allowed, weights)[0]["id"])

    def _pick_allowed(self) -> None:
        """Have one token generated among all that the grammar allows: for when none of the likeliest is."""
        assert self.matcher is not None
        mask = self.matcher.compute_bitmask()
        allowed = [id for id in range(self.tokenizer.vocabulary_size) if mask[id >> 3] >> (id & 7) & 1]
        # llama.cpp keeps back a token that is only part of a character, and this is about one token.
        whole = [id for id in allowed if self.tokenizer.is_whole(id)]
        if not whole:
            self.matcher.consume_token(allowed[0])
            self._accept(allowed[:1])
            return
        before = self.generated
        bias = dict(self.params.logit_bias)
        wanted = [[id, _ALLOWED + bias.get(id, 0.0)] for id in whole]
        reason = self._ask(1, {"logit_bias": wanted}, self._on_token)
        if self.generated == before and reason != "stop" and not self.cancelled:
            raise EngineError("llama.cpp generated a token that its logit bias rules out")
        self.over = self.over or reason == "stop"

    def _force(self) -> bool:
        """Put what the grammar forces next behind the prompt; says whether there was anything, or the end."""
        if self.matcher is None or self.over:
            return self.over
        ids = self.matcher.compute_ff_tokens()
        forced = len(ids) >= _FORCED
        if forced:
            ids = ids[: self.budget - self.generated - self.forced]
            self.matcher.consume_tokens(ids)
            self._accept(ids, forced=True)
        if self.matcher.is_stopped():
            self.over = True
            if not self.matcher.is_accepting():
                raise EngineError(
                    f"the grammar of this turn leads nowhere: {self.matcher.get_error() or 'no token fits'}"
                )
        return self.over or forced or self._spent()

    def _accept(
        self,
        ids: Sequence[int],
        *,
        forced: bool = False,
        logprob: float | None = None,
        alternatives: tuple[tuple[str, float], ...] = (),
    ) -> None:
        self.ids += ids
        if forced:
            self.forced += len(ids)
        else:
            self.generated += len(ids)
        if text := self.text.feed(self.tokenizer.decode(ids)):
            self.emit(Piece(text, logprob=logprob, alternatives=alternatives))
        self.over = self.over or self.text.stopped_by is not None


class _Text:
    """Bytes to text: characters are kept whole, and the text ends before the first stop sequence."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stopped_by: str | None = None
        self._stops = stops
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""  # what a stop sequence may begin with

    def feed(self, data: bytes) -> str:
        text = self._held + self._decoder.decode(data)
        found = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            (at, self.stopped_by), self._held = min(found), ""
            return text[:at]
        kept = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def rest(self) -> str:
        return "" if self.stopped_by is not None else self._held + self._decoder.decode(b"", final=True)


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` are the beginning of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
