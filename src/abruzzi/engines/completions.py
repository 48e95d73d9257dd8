"""Any server that offers OpenAI's `/v1/completions`: the prompt goes out as text or as token ids, the output comes back
as it is written. One that turns out to offer chat alone is asked for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec

from abruzzi.engines.api import Constraint, Ids
from abruzzi.engines.base import Capabilities, Piece, SamplingParams, name_of
from abruzzi.engines.chat_only import ChatEngine
from abruzzi.engines.doctor import Finding, examine, in_words
from abruzzi.engines.http import Unreachable
from abruzzi.engines.output import Output
from abruzzi.engines.refusal import Refused
from abruzzi.engines.remote import Remote, encoded
from abruzzi.engines.room import is_tight, room, room_counted
from abruzzi.engines.ways import Asker, Ways, ways_of
from abruzzi.guide.grammar import Grammar
from abruzzi.protocol.errors import EngineError, EngineTimeout, EngineUnavailable
from abruzzi.protocol.prompt import Prompt
from abruzzi.protocol.tokens import Tokenizer
from abruzzi.protocol.variants import Variant

logger = logging.getLogger(__name__)

# Of a grammar: its tools, and bytes. The engine compiles it before it begins, for seconds where it is larger.
_MOST_TOOLS = 256
_MAX_GRAMMAR = 1 << 20
# Grammars of which it is remembered that the engine doesn't take them.
_REMEMBERED = 1024
# Seconds for which what was found out counts; and between two tries where nothing was.
_KNOWN_SECONDS = 300.0
_PAUSE_SECONDS = 5.0


class CompletionsEngine(Remote):
    """An engine behind a URL. It is given a turn's grammar where it was seen to obey one (`settle`), and whatever it
    writes is checked. Until then it is asked as a server is of which nothing is known.
    """

    def __init__(
        self,
        base_url: str,
        *,
        model: str,
        variant: Variant,
        context_length: int | None = None,
        tokenizer: Tokenizer | None = None,
        timeout: float | None = None,
        api_key: str | None = None,
        guided: bool = True,
        ways: Ways | None = None,
    ) -> None:
        """`base_url` ends in `/v1`. `tokenizer` is the served K2's: for counting, and for ids where the engine takes
        them. `timeout`: seconds of silence after which a completion is given up, 600 when left out. `api_key` is the
        one that the engine asks for. Without `guided` it is given no grammar. `ways`: what is known of it already.
        """
        super().__init__(base_url, timeout, api_key)
        self.capabilities = Capabilities(
            model=model,
            variant=variant,
            constrains=False,
            most_tools=_MOST_TOOLS,
            context_length=context_length,
            counter=tokenizer,
        )
        self.ways = Ways() if ways is None else ways
        self._guided = guided
        self._by_id = False
        self._is_settled = ways is not None
        self._asked_at = math.inf if ways is not None else -math.inf
        self._unready = "it wasn't asked"
        self._settling: asyncio.Task[None] | None = None
        self._make_chat = partial(ChatEngine, base_url, model=model, variant=variant, timeout=timeout, api_key=api_key)
        self._chat: ChatEngine | None = None  # what is asked in its place where there are no completions
        self._refused: dict[int, float] = {}  # hashes of grammars that it isn't given, and until when
        self._withheld: dict[str, float] = {}  # fields that it isn't given, and until when

    async def settle(self, seconds: float | None = None) -> Ways:
        """Find out how the server is asked, in a second or two, `seconds` at most. Of one that isn't ready nothing new
        is known, and it is asked again beside later requests.
        """
        self._asked_at = time.monotonic()
        try:
            async with self._asker() as asker, asyncio.timeout(seconds):
                found = await ways_of(asker, self.capabilities.variant, guided=self._guided)
        except TimeoutError:
            self._unready = "it took too long to answer"
            return self.ways
        except EngineUnavailable as error:
            self._unready = str(error)
            return self.ways
        self._is_settled, self.ways = True, found
        self._refused.clear()
        counter = self.capabilities.counter
        if not found.completes:
            self._chat = self._make_chat(context_length=self.capabilities.context_length, tokenizer=counter)
            self.capabilities, self._asked_at = self._chat.capabilities, math.inf  # a host of chats stays one
            return found
        self._by_id = counter is not None and bool(found.ids) and found.ids.items() <= counter.controls.items()
        self.capabilities = replace(
            self.capabilities,
            constrains=found.constraint is not None,
            context_length=found.context_length or self.capabilities.context_length,
            tokenizer=counter if self._by_id and found.tells_ids else None,
        )
        return found

    async def examine(self) -> AsyncGenerator[Finding, None]:
        """All that can be found out of the server, one thing after another: it takes some seconds. Raises
        EngineUnavailable where nobody answers.
        """
        async with self._asker() as asker, contextlib.aclosing(examine(asker, self.capabilities.variant)) as findings:
            async for finding in findings:
                yield finding

    def told(self) -> Sequence[tuple[str, bool]]:
        """What `settle` found, in words, and whether something had better be changed."""
        if self._chat is not None:
            return self._chat.told()
        if self._is_settled:
            return in_words(self.ways, guided=self._guided)
        return [(f"isn't known so far, and is given no grammar until it is: {self._unready}", True)]

    def health(self) -> list[dict[str, Any]]:
        return super().health() if self._chat is None else self._chat.health()

    async def look(self) -> bool:
        return await (super().look() if self._chat is None else self._chat.look())

    async def aclose(self) -> None:
        if self._chat is not None:
            await self._chat.aclose()
        await super().aclose()

    @contextlib.asynccontextmanager
    async def _asker(self) -> AsyncGenerator[Asker, None]:
        client = replace(self._client, url=self.url.removesuffix("/v1"))
        try:
            yield Asker(client, self.capabilities.model)
        finally:
            await client.aclose()

    def complete(self, prompt: Prompt, params: SamplingParams, grammar: Grammar | None) -> AsyncGenerator[Piece, None]:
        """Continue the prompt, within the grammar where the engine obeys one and the prompt ends before the turn."""
        self._settle_again()
        if self._chat is not None:
            return self._chat.complete(prompt, params, grammar)
        constraint = self.ways.constraint
        if grammar is None or constraint is None or grammar.written or self._refuses(grammar):
            return self._pieces(prompt, params)
        return self._held(prompt, params, grammar, constraint)

    async def _held(
        self, prompt: Prompt, params: SamplingParams, grammar: Grammar, constraint: Constraint
    ) -> AsyncGenerator[Piece, None]:
        """A completion within the grammar; where the engine can't follow that one, without."""
        fields = await asyncio.to_thread(_spelled, constraint, grammar, self.ways.ids)
        begun = False
        try:
            async with contextlib.aclosing(self._pieces(prompt, params, fields)) as pieces:
                async for piece in pieces:
                    begun = True
                    yield piece
            return
        except (EngineUnavailable, EngineTimeout):
            raise
        except EngineError as error:  # TensorRT-LLM breaks off
            if begun or not fields:
                raise
            refusal = error
        async with contextlib.aclosing(self._pieces(prompt, params)) as pieces:
            async for piece in pieces:
                if not begun:  # so it was the grammar's fault
                    begun = True
                    self._note_refusal(grammar, refusal)
                yield piece

    def _refuses(self, grammar: Grammar) -> bool:
        return time.monotonic() < self._refused.get(hash(grammar), 0.0)

    def _note_refusal(self, grammar: Grammar, error: EngineError) -> None:
        if len(self._refused) >= _REMEMBERED:
            self._refused.clear()
        self._refused[hash(grammar)] = time.monotonic() + _KNOWN_SECONDS  # it may have been something else, after all
        # Its words may hold what it was asked.
        logger.warning("the engine %s doesn't take a turn's grammar (%s)", name_of(self), type(error).__name__)

    def _settle_again(self) -> None:
        """Beside requests, where nothing is known for sure: an engine may have been started anew with other options."""
        age = time.monotonic() - self._asked_at
        if age < (_KNOWN_SECONDS if self._is_settled else _PAUSE_SECONDS) or self._settling is not None:
            return
        self._settling = asyncio.get_running_loop().create_task(self._settle_beside())

    async def _settle_beside(self) -> None:
        try:
            with contextlib.suppress(Exception):
                await self.settle()
        finally:
            self._settling = None

    def _pieces(
        self, prompt: Prompt, params: SamplingParams, held: Mapping[str, msgspec.Raw] | None = None
    ) -> AsyncGenerator[Piece, None]:
        """A completion; `held`: the fields that hold it to a grammar."""
        is_sure = self.ways.api.is_known and not params.alternatives
        if is_sure and (params.max_tokens is not None or not is_tight(prompt, self.ways.api, self.capabilities)):
            return self._asked(prompt, params, held or {})
        return self._looked_after(prompt, params, held or {})

    async def _looked_after(
        self, prompt: Prompt, params: SamplingParams, held: Mapping[str, msgspec.Raw]
    ) -> AsyncGenerator[Piece, None]:
        """A completion, of which the room is counted before, and which does without what the server refuses."""
        api = self.ways.api
        if params.max_tokens is None and is_tight(prompt, api, self.capabilities):
            async with self._asker() as asker:
                params = replace(params, max_tokens=await room_counted(prompt, api, self.capabilities, asker))
        now = time.monotonic()
        without = {name for name, until in self._withheld.items() if now < until}
        dispensable = {name for name, is_asked in self._dispensable(params) if is_asked}
        while True:
            begun = False
            try:
                asked = self._asked(prompt, params, held, without=without & dispensable)
                async with contextlib.aclosing(asked) as pieces:
                    async for piece in pieces:
                        begun = True
                        yield piece
                return
            except Refused as error:
                named = {name for name in dispensable - without if error.names(name)}
                if begun or not named:
                    raise
                without |= named
                self._withheld.update(dict.fromkeys(named, now + _KNOWN_SECONDS))

    def _dispensable(self, params: SamplingParams) -> Iterable[tuple[str, bool]]:
        """What an answer can be had without, and whether it is asked for."""
        yield "logprobs", bool(params.alternatives)
        yield "temperature", bool(params.least_temperature)
        yield "stream_options", not self.ways.api.is_known

    def _asked(
        self,
        prompt: Prompt,
        params: SamplingParams,
        held: Mapping[str, msgspec.Raw],
        *,
        without: Collection[str] = (),
    ) -> AsyncGenerator[Piece, None]:
        """A request, `without` what an answer can be had without."""
        by_id = self.capabilities.tokenizer is not None and not params.stop
        fields = {**(self.ways.api.ids_out if by_id else {}), **held}
        if "logprobs" in without:
            params = replace(params, alternatives=0)
        if "temperature" in without:
            params = replace(params, least_temperature=0.0)
        if "stream_options" in without:
            fields["stream_options"] = None
        make = partial(self._body, prompt, params, fields, by_id=by_id)
        return self._answer("/completions", prompt, make, Output(params, by_id=by_id), guided=bool(held))

    def _note_trouble(self, error: Unreachable) -> None:
        super()._note_trouble(error)
        if self._is_settled and self._asked_at < math.inf:
            self._is_settled, self._asked_at = False, -math.inf  # who comes back may be another one

    def _body(self, prompt: Prompt, params: SamplingParams, fields: Mapping[str, Any], *, by_id: bool) -> bytes:
        api, ids, counter = self.ways.api, self.ways.ids, self.capabilities.counter
        text = str(prompt)
        end = ids.get(prompt.variant.turn_end) if api.stops_at_ids else None
        body: dict[str, Any] = {
            "model": self.capabilities.model,
            "prompt": counter.encode_prompt(prompt) if self._by_id and counter is not None else text,
            "max_tokens": params.max_tokens or room(prompt, text, api, self.capabilities, by_id=self._by_id),
            "temperature": params.heat,
            "top_p": params.top_p,
            "seed": params.seed,
            "logprobs": params.offered,
            "frequency_penalty": params.frequency_penalty,
            "presence_penalty": params.presence_penalty,
            # Not OpenAI's: what knows only its fields refuses these, or does nothing about them.
            api.renamed.get("repetition_penalty", "repetition_penalty"): params.repetition_penalty,
            "top_k": params.top_k,
            "min_p": params.min_p,
            "logit_bias": {str(id): bias for id, bias in params.logit_bias} or None,
            # Looking for one holds text back behind its ids.
            "stop": [*(() if by_id else (prompt.variant.turn_end,)), *params.stop] or None,
            "stop_token_ids": None if end is None else [end],
            "stream": True,
            "stream_options": {"include_usage": True},
            **api.fields,
            **fields,
        }
        return encoded(body)


def _spelled(constraint: Constraint, grammar: Grammar, ids: Ids) -> Mapping[str, msgspec.Raw]:
    """The fields for a grammar, in JSON; none where it is so large that the engine would compile it for seconds."""
    fields = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in constraint.fields(grammar, ids).items()}
    return fields if sum(map(len, fields.values())) <= _MAX_GRAMMAR else {}
