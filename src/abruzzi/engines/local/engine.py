"""The embedded engine: a small model in this process, through llama.cpp (xllamacpp)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from abruzzi.engines.base import Capabilities, Piece, SamplingParams
from abruzzi.engines.local.slots import Slots
from abruzzi.engines.local.tokenizer import Counter, Tokenizer
from abruzzi.engines.local.turn import Turn
from abruzzi.guide.grammar import Grammar
from abruzzi.protocol.errors import EngineError, EngineUnavailable, PromptTooLong, RequestError
from abruzzi.protocol.prompt import Prompt

# Requests answered at the same time; more wait their turn.
_SLOTS = 8
# Tokens of key-value cache that the slots share, 23 kB each. llama.cpp drops idle slots' for a request that needs them,
# but fails all open requests when theirs together don't fit: `Slots` sees to it that they do.
_CACHE = 16384
# Tokens read in one go, and so the longest that a caller who left keeps the engine busy: 0.4 s. With 64 a prompt takes
# some 8 % more of the CPU.
_BATCH = 128
# Tokens that a request may write before it needs more room in the cache.
_STEP = 1024
# A small model that lost its way may go on for ever; whoever wants more says so.
_MAX_TOKENS = 1024
# Turns whose grammar is kept compiled: a conversation's next turn, and the next conversation, have the same tools.
_GRAMMARS = 16


class LocalEngine:
    """A GGUF model of SmolLM2's or Qwen2.5's family. `LocalEngine.load` makes one; it takes about a second."""

    def __init__(self, server: Any, tokenizer: Tokenizer, capabilities: Capabilities, key: str) -> None:
        self.capabilities = capabilities
        self._server = server
        self._key = key
        self._tokenizer = tokenizer
        self._compiled = lru_cache(maxsize=_GRAMMARS)(partial(_compiled, tokenizer.for_grammars()))
        self._threads = ThreadPoolExecutor(_SLOTS, thread_name_prefix="abruzzi-local")
        self._slots = Slots(_SLOTS, _CACHE)
        self._turns: set[Turn] = set()

    @classmethod
    def load(cls, model: Path, adapter: Path | None, *, name: str, threads: int = 1) -> LocalEngine:
        """Load the weights, and the adapter on top of them; the model is called `name` from then on.

        `threads` generate; a prompt is read by as many as there are cores. One never collapses when other programs
        want the cores; two that share a busy core wait for each other at every layer.

        Raises EngineUnavailable when a file can't be used.
        """
        # llama.cpp's threads spin between two batches unless OpenMP is told otherwise before it is loaded. Spinning
        # threads starve each other on a machine that has other work.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        import xllamacpp

        try:
            tokenizer = Tokenizer(model)
        except (OSError, ValueError) as error:
            raise EngineUnavailable(f"the weights at {model} can't be read: {error}") from error
        params = xllamacpp.CommonParams()
        params.model.path = str(model)
        if adapter is not None:
            params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter), 1.0)]
        params.n_ctx, params.n_parallel, params.kv_unified = _CACHE, _SLOTS, True
        params.n_batch = params.n_ubatch = _BATCH
        params.cache_ram_mib = 0
        params.cpuparams.n_threads = threads
        params.cpuparams_batch.n_threads = max(threads, os.cpu_count() or 1)
        # Each of these costs a tenth of a second at start, for what isn't used here: sizes fitted to a GPU, the model's
        # own chat template, a trial run.
        params.fit_params = params.use_jinja = params.enable_chat_template = params.warmup = False
        params.verbosity = -1
        # The binding opens an HTTP port on the loopback, which nothing here uses: it is for nobody else, either.
        params.api_keys = [key := secrets.token_hex(16)]
        try:
            # In a thread of its own: a Ctrl-C that reaches llama.cpp half-way through its start leaves it hanging.
            with ThreadPoolExecutor(1) as thread:
                server = thread.submit(xllamacpp.Server, params).result()
        except Exception as error:  # the binding raises RuntimeError and bare Exception, whatever went wrong
            raise EngineUnavailable(f"llama.cpp can't load {model}: {error}") from error
        capabilities = Capabilities(
            model=name,
            variant=tokenizer.variant,
            constrains=True,
            constrains_within=True,
            shows_controls=False,
            context_length=min(tokenizer.context_length, _CACHE),
            counter=Counter(tokenizer),
        )
        return cls(server, tokenizer, capabilities, key)

    async def complete(
        self, prompt: Prompt, params: SamplingParams, grammar: Grammar | None
    ) -> AsyncGenerator[Piece, None]:
        """Continue the prompt, within the grammar when one is given."""
        ids = await asyncio.to_thread(self._tokenizer.encode, prompt)  # takes seconds for megabytes
        if not ids:  # its vocabulary lacks some bytes
            raise RequestError("expected a prompt with something in it that the model can read", "prompt")
        length = self.capabilities.context_length
        assert length is not None
        room = length - len(ids)
        if room < 1:
            raise PromptTooLong(f"the conversation is {len(ids)} tokens long, the model reads {length}")
        self._check_bias(params)
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[Piece | BaseException] = asyncio.Queue()

        def emit(piece: Piece | BaseException) -> None:
            # A loop that is closed has nobody left who listens.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

        matcher = None if grammar is None else await asyncio.to_thread(self._matcher, grammar)
        limit = min(params.max_tokens or _MAX_TOKENS, room)
        # Whoever may write a lot gets room for more when it comes to that: few do, and others wait meanwhile.
        budget = min(limit, _STEP)
        slot = await self._slots.take(ids, len(ids) + budget)
        if self._server is None:
            self._slots.give_back(slot, ())
            raise EngineUnavailable("the embedded engine was closed")
        turn = Turn(self._server, self._tokenizer, matcher, ids, params, budget, limit, self._slots, slot, emit)

        self._turns.add(turn)

        def work() -> None:
            # The slot is free before the caller hears of the end, and so for what the caller asks next.
            last = turn.run()
            self._turns.discard(turn)
            self._slots.give_back(slot, turn.ids)
            emit(last)

        self._threads.submit(work)
        try:
            while True:
                piece = await pieces.get()
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
                if piece.finish_reason:
                    return
        finally:
            turn.cancelled = True

    def _check_bias(self, params: SamplingParams) -> None:
        """llama.cpp would leave out ids that its model hasn't, without a word."""
        size = self._tokenizer.vocabulary_size
        for id, _ in params.logit_bias:
            if id >= size:
                raise RequestError(f"expected the id of a token, below {size}, got {id}", "logit_bias")

    def _matcher(self, grammar: Grammar) -> LLMatcher | None:
        """The grammar, behind what of the turn is written; None where that is in a spelling that it doesn't have."""
        matcher = self._compiled(grammar.lark).deep_copy()
        ids = self._tokenizer.encoding.encode_ordinary(grammar.written)
        return matcher if not ids or matcher.try_consume_tokens(ids) == len(ids) else None

    async def aclose(self) -> None:
        """Let go of the model. Open completions end at their next token, those that wait get EngineUnavailable."""
        server, self._server = self._server, None  # kept until nobody is in it
        for turn in list(self._turns):
            turn.cancelled = True
        await asyncio.to_thread(self._threads.shutdown)
        del server


def _compiled(vocabulary: LLTokenizer, lark: str) -> LLMatcher:
    matcher = LLMatcher(vocabulary, LLMatcher.grammar_from_lark(lark))
    if matcher.is_error():
        raise EngineError(f"the grammar of this turn can't be compiled: {matcher.get_error()}")
    return matcher
