"""Any server that offers OpenAI's `/v1/completions`: the prompt goes out as text or as token ids, the output comes back
as it is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec

from abruzzi.engines.api import Constraint, Ids
from abruzzi.engines.base import Capabilities, Piece, SamplingParams, name_of
from abruzzi.engines.doctor import Finding, examine, in_words
from abruzzi.engines.http import BrokenOff, Client, Silence, Unreachable
from abruzzi.engines.output import Events, Output
from abruzzi.engines.refusal import Failed, Refused, refusal
from abruzzi.engines.ways import Asker, Ways, ways_of
from abruzzi.guide.grammar import Grammar
from abruzzi.protocol.errors import EngineError, EngineTimeout, EngineUnavailable, RequestError
from abruzzi.protocol.prompt import Prompt
from abruzzi.protocol.tokens import Tokenizer
from abruzzi.protocol.variants import Variant

logger = logging.getLogger(__name__)

_CONNECT_SECONDS = 5.0
# The longest silence that still counts as work: a long prompt is read before the first token comes.
_SILENCE_SECONDS = 600.0
# Engines that are asked for no limit stop at 16 tokens, as the first of OpenAI's did.
_MAX_TOKENS = 4096
_LEAST_TOKENS = 256
# Characters of a prompt that take a millisecond or more to spell, or tens of them where all may be markers.
_LONG = 256 << 10
# Of a grammar: its tools, and bytes. The engine compiles it before it begins, for seconds where it is larger.
_MOST_TOOLS = 256
_MAX_GRAMMAR = 1 << 20
# Grammars of which it is remembered that the engine doesn't take them.
_REMEMBERED = 1024
# Bytes of an answer that comes whole.
_MAX_WHOLE = 64 << 20


class CompletionsEngine:
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
        self.capabilities = Capabilities(
            model=model,
            variant=variant,
            constrains=False,
            most_tools=_MOST_TOOLS,
            context_length=context_length,
            counter=tokenizer,
        )
        self.url = base_url
        self.ways = Ways() if ways is None else ways
        self._guided = guided
        self._by_id = False
        self._is_settled = ways is not None
        self._settling: asyncio.Task[None] | None = None
        self._refused: set[int] = set()  # hashes of grammars that it can't be held to
        self._trouble: str | None = None
        self._client = Client(
            base_url,
            connect_seconds=_CONNECT_SECONDS,
            silence_seconds=timeout or _SILENCE_SECONDS,
            headers=() if api_key is None else (("authorization", f"Bearer {api_key}"),),
        )

    async def settle(self) -> Ways:
        """Find out how the server is asked, in a second or two. Of one that doesn't answer nothing new is known."""
        async with self._asker() as asker:
            found = await ways_of(asker, self.capabilities.variant, guided=self._guided)
        if found is None:
            return self.ways
        self._is_settled, self.ways = True, found
        self._refused.clear()
        counter = self.capabilities.counter
        self._by_id = counter is not None and bool(found.ids) and found.ids.items() <= counter.controls.items()
        self.capabilities = replace(
            self.capabilities,
            constrains=found.constraint is not None,
            tokenizer=counter if self._by_id and found.api.ids_out else None,
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
        return in_words(self.ways, guided=self._guided) if self._is_settled else [("hasn't answered so far", True)]

    @contextlib.asynccontextmanager
    async def _asker(self) -> AsyncGenerator[Asker, None]:
        client = replace(self._client, url=self.url.removesuffix("/v1"))
        try:
            yield Asker(client, self.capabilities.model)
        finally:
            await client.aclose()

    def complete(self, prompt: Prompt, params: SamplingParams, grammar: Grammar | None) -> AsyncGenerator[Piece, None]:
        """Continue the prompt, within the grammar where the engine obeys one and the prompt ends before the turn."""
        if not self._is_settled and (self._settling is None or self._settling.done()):
            self._settling = asyncio.get_running_loop().create_task(self._settle_beside())
        constraint = self.ways.constraint
        if grammar is None or constraint is None or grammar.written or hash(grammar) in self._refused:
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
        except (Refused, Failed) as error:
            if begun or not fields:
                raise
            refusal = error
        async with contextlib.aclosing(self._pieces(prompt, params)) as pieces:
            async for piece in pieces:
                if not begun:  # so it was the grammar's fault
                    begun = True
                    self._note_refusal(grammar, refusal)
                yield piece

    def _note_refusal(self, grammar: Grammar, error: EngineError) -> None:
        if len(self._refused) >= _REMEMBERED:
            self._refused.clear()
        self._refused.add(hash(grammar))
        # Its words may hold what it was asked.
        logger.warning("the engine %s doesn't take a turn's grammar (%s)", name_of(self), type(error).__name__)

    async def _settle_beside(self) -> None:
        with contextlib.suppress(Exception):  # the next request tries again
            await self.settle()

    async def _pieces(
        self, prompt: Prompt, params: SamplingParams, held: Mapping[str, msgspec.Raw] | None = None
    ) -> AsyncGenerator[Piece, None]:
        """A completion; `held`: the fields that hold it to a grammar."""
        url, by_id = f"{self.url}/completions", self.capabilities.tokenizer is not None and not params.stop
        output = Output(params, by_id=by_id)
        try:
            is_long = sum(map(len, prompt.parts)) > _LONG  # others are being served meanwhile
            fields = {**(self.ways.api.ids_out if by_id else {}), **(held or {})}
            make = partial(self._body, prompt, params, fields)
            body = await asyncio.to_thread(make) if is_long else make()
            response = await self._client.ask("POST", "/completions", body)
            del body
            self._trouble = None
            try:
                if response.status != 200:
                    said = await response.rest(_MAX_WHOLE)
                    wait, location = (
                        response.headers.get(name, b"").decode("latin-1") for name in (b"retry-after", b"location")
                    )
                    raise refusal(url, response.status, said.decode(errors="replace"), wait, location)
                if response.headers.get(b"content-type", b"").startswith(b"application/json"):
                    whole = await response.rest(_MAX_WHOLE)  # it doesn't stream, or is in trouble
                    for piece in output.pieces((whole,)):
                        yield piece
                else:
                    events = Events()
                    received = b"\n"
                    while received and not output.over:
                        received = await response.read()
                        for piece in output.pieces(events.feed(received or b"\n")):  # the last line may have no end
                            yield piece
            except (BrokenOff, Silence):
                if not output.has_ended:
                    raise
            finally:
                response.close(lingers=output.over)
            yield output.last(guided=bool(held))
        except Unreachable as error:
            self._trouble = f"nothing answers at {self.url}: {error}"
            self._is_settled = False  # who comes back may be another version, with other options
            raise EngineUnavailable(self._trouble) from error
        except Silence as error:
            raise EngineTimeout(f"{url} {error}") from error
        except BrokenOff as error:
            raise EngineError(f"{url} broke off: {error}") from error

    def health(self) -> list[dict[str, Any]]:
        """How it was when it was asked last: `url`, `model`, `status` (ok, sick) and its last `error`."""
        status = "ok" if self._trouble is None else "sick"
        return [{"url": self.url, "model": self.capabilities.model, "status": status, "error": self._trouble}]

    async def look(self) -> bool:
        """Whether there is somebody to ask, now."""
        try:
            await self._client.reach()
        except Unreachable as error:
            self._trouble = f"nothing answers at {self.url}: {error}"
            return False
        self._trouble = None
        return True

    def _body(self, prompt: Prompt, params: SamplingParams, fields: Mapping[str, Any]) -> bytes:
        api, ids, counter = self.ways.api, self.ways.ids, self.capabilities.counter
        text = str(prompt)
        end = ids.get(prompt.variant.turn_end) if api.stops_at_ids else None
        body: dict[str, Any] = {
            "model": self.capabilities.model,
            "prompt": counter.encode_prompt(prompt) if self._by_id and counter is not None else text,
            "max_tokens": params.max_tokens or self._room(prompt, text),
            "temperature": params.temperature,
            "top_p": params.top_p,
            "seed": params.seed,
            "logprobs": params.logprobs,
            "frequency_penalty": params.frequency_penalty,
            "presence_penalty": params.presence_penalty,
            # Not OpenAI's: what knows only its fields refuses these, or does nothing about them.
            api.renamed.get("repetition_penalty", "repetition_penalty"): params.repetition_penalty,
            "top_k": params.top_k,
            "min_p": params.min_p,
            "logit_bias": {str(id): bias for id, bias in params.logit_bias} or None,
            "stop": [prompt.variant.turn_end, *params.stop],
            "stop_token_ids": None if end is None else [end],
            "stream": True,
            "stream_options": {"include_usage": True},
            **api.fields,
            **fields,
        }
        try:
            return msgspec.json.encode({key: value for key, value in body.items() if value is not None})
        except UnicodeEncodeError:
            raise RequestError("expected text, got half of a surrogate pair, which is no character") from None

    def _room(self, prompt: Prompt, text: str) -> int:
        """The limit where the client sets none. Engines refuse one that goes beyond what the model reads."""
        context, counter = self.capabilities.context_length, self.capabilities.counter
        if context is None or 3 * len(text) + _MAX_TOKENS < context:
            return _MAX_TOKENS
        if counter is not None:
            return max(1, min(_MAX_TOKENS, context - counter.count(prompt)))
        # Two bytes a token is little: of English it is four.
        return max(_LEAST_TOKENS, min(_MAX_TOKENS, context - len(text.encode()) // 2))

    async def aclose(self) -> None:
        """Close the connections of the running event loop; others' end with their loops."""
        await self._client.aclose()


def _spelled(constraint: Constraint, grammar: Grammar, ids: Ids) -> Mapping[str, msgspec.Raw]:
    """The fields for a grammar, in JSON; none where it is so large that the engine would compile it for seconds."""
    fields = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in constraint.fields(grammar, ids).items()}
    return fields if sum(map(len, fields.values())) <= _MAX_GRAMMAR else {}
