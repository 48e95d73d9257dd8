"""The embedded engine: a small model in this process, through llama.cpp (xllamacpp).

llama.cpp generates freely and the grammar is followed here, token by token, in the callback of its stream: that way
what the grammar forces is put into the prompt and read in one batch, six times as fast as it could be generated; and
a token outside the grammar is replaced by the likeliest one inside, of the alternatives that came with it.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import math
import os
import random
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from abruzzi.engines.base import Capabilities, Piece, SamplingParams, Usage
from abruzzi.engines.local.tokenizer import Tokenizer
from abruzzi.guide.grammar import Grammar
from abruzzi.protocol.errors import EngineError, EngineUnavailable, RequestError
from abruzzi.protocol.template import Prompt
from abruzzi.protocol.variants import SMOLLM2

# Requests answered at the same time; more wait their turn.
_SLOTS = 8
# Tokens of key-value cache that the slots share, 23 kB each.
_CACHE = 16384
# Tokens read in one go, and so the longest that a caller who left keeps the engine busy: 0.4 s.
_BATCH = 128
# A small model that lost its way may go on for ever; whoever wants more says so.
_MAX_TOKENS = 1024
# Alternatives asked for with each token. They cost nothing measurable.
_ALTERNATIVES = 40
# From so many on, reading forced tokens as a prompt is faster than generating them.
_FORCED = 2


class LocalEngine:
    """SmolLM2-135M with Abruzzi's adapter. `LocalEngine.load` makes one; it takes about a second."""

    def __init__(self, server: Any, tokenizer: Tokenizer, capabilities: Capabilities) -> None:
        self.capabilities = capabilities
        self._server = server
        self._tokenizer = tokenizer
        self._vocabulary = tokenizer.for_grammars()
        self._threads = ThreadPoolExecutor(_SLOTS, thread_name_prefix="abruzzi-local")
        self._slots = _Slots(_SLOTS)
        self._turns: set[_Turn] = set()

    @classmethod
    def load(cls, model: Path, adapter: Path | None, *, threads: int = 1) -> LocalEngine:
        """Load the weights, and the adapter on top of them.

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
        try:
            # In a thread of its own: a Ctrl-C that reaches llama.cpp half-way through its start leaves it hanging.
            with ThreadPoolExecutor(1) as thread:
                server = thread.submit(xllamacpp.Server, params).result()
        except Exception as error:  # the binding raises RuntimeError and bare Exception, whatever went wrong
            raise EngineUnavailable(f"llama.cpp can't load {model}: {error}") from error
        capabilities = Capabilities(
            model="smollm2-135m", variant=SMOLLM2, constrains=True, context_length=tokenizer.context_length
        )
        return cls(server, tokenizer, capabilities)

    async def complete(
        self, prompt: Prompt, params: SamplingParams, grammar: Grammar | None
    ) -> AsyncGenerator[Piece, None]:
        """Continue the prompt, within the grammar when one is given."""
        ids = self._tokenizer.encode(prompt)
        room = self._tokenizer.context_length - len(ids)
        if room < 1:
            raise RequestError(
                f"the conversation is {len(ids)} tokens long, the model reads {self._tokenizer.context_length}"
            )
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[Piece | BaseException] = asyncio.Queue()

        def emit(piece: Piece | BaseException) -> None:
            # A loop that is closed has nobody left who listens.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(pieces.put_nowait, piece)

        matcher = None if grammar is None else _matcher(self._vocabulary, grammar)
        budget = min(params.max_tokens or _MAX_TOKENS, room)
        slot = await self._slots.take(ids)
        turn = _Turn(self._server, self._tokenizer, matcher, ids, params, budget, slot, emit)

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

    async def aclose(self) -> None:
        """Let go of the model. Open completions end at their next token."""
        for turn in list(self._turns):
            turn.cancelled = True
        await asyncio.to_thread(self._threads.shutdown)
        self._server = None


class _Slots:
    """llama.cpp's slots. A request gets the free one whose cache shares the longest prefix with its prompt.

    Slots are taken in an event loop and given back by a worker's thread, which may outlive that loop.
    """

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._free: dict[int, Sequence[int]] = dict.fromkeys(range(count), ())
        self._waiting: deque[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = deque()

    async def take(self, ids: Sequence[int]) -> int:
        while True:
            with self._lock:
                if self._free:
                    slot = max(self._free, key=lambda free: (_common(self._free[free], ids), -len(self._free[free])))
                    del self._free[slot]
                    return slot
                given_back = asyncio.Event()
                self._waiting.append((asyncio.get_running_loop(), given_back))
            await given_back.wait()

    def give_back(self, slot: int, ids: Sequence[int]) -> None:
        with self._lock:
            self._free[slot] = ids
            # All who wait look again: one of them may have left, and would take the only wake-up with it.
            waiting, self._waiting = self._waiting, deque()
        for loop, given_back in waiting:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(given_back.set)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    length = min(len(a), len(b))
    return next((i for i in range(length) if a[i] != b[i]), length)


def _matcher(vocabulary: LLTokenizer, grammar: Grammar) -> LLMatcher:
    matcher = LLMatcher(vocabulary, LLMatcher.grammar_from_lark(grammar.lark))
    if matcher.is_error():
        raise EngineError(f"the grammar of this turn can't be compiled: {matcher.get_error()}")
    return matcher


@dataclass(eq=False)
class _Turn:
    """One completion, run in a thread of its own: llama.cpp is asked for one stretch after another until the turn is
    over.
    """

    server: Any
    tokenizer: Tokenizer
    matcher: LLMatcher | None
    ids: list[int]
    params: SamplingParams
    budget: int
    slot: int
    emit: Callable[[Piece], object]
    cancelled: bool = False
    over: bool = False
    cached: int | None = None
    generated: int = 0
    forced: int = 0
    failure: BaseException | None = None
    text: codecs.IncrementalDecoder = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))

    def __post_init__(self) -> None:
        self.prompt_length = len(self.ids)
        self.random = random.Random(self.params.seed)

    def run(self) -> Piece | BaseException:
        """Everything but the last piece goes out by `emit`; the last one, or what went wrong, is returned."""
        try:
            self._force()
            while not (self.over or self.cancelled or self._spent()):
                self._stretch()
            usage = Usage(self.prompt_length, self.generated + self.forced, self.cached or 0, self.forced)
            rest = self.text.decode(b"", final=True)
            return Piece(rest, "stop" if self.over else "length", usage)
        except BaseException as error:
            return error

    def _spent(self) -> bool:
        return self.generated + self.forced >= self.budget

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
        temperature = self.params.temperature or 0.0
        request = {
            "prompt": self.ids,
            "n_predict": count,
            "stream": True,
            # A chunk for every batch of the prompt, so that a caller's leaving is noticed then too.
            "return_progress": True,
            "id_slot": self.slot,
            "cache_prompt": True,
            "temperature": temperature,
            "top_p": 1.0 if self.params.top_p is None else self.params.top_p,
            "top_k": 0,
            "min_p": 0.0,
            "n_probs": _ALTERNATIVES if self.matcher else 1,
            "seed": self.random.getrandbits(31),
        }
        return {**request, **options}

    # Tokens

    def _on_token(self, token: Mapping[str, Any]) -> str | None:
        """Take a generated token; says why generation must be interrupted, if it must."""
        ids = self._ids_of(token)
        if self.matcher is None:
            self._accept(ids)
            return None
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
        temperature = self.params.temperature
        if not temperature:
            return int(max(allowed, key=lambda one: one["logprob"])["id"])
        best = max(one["logprob"] for one in allowed)
        weights = [math.exp((one["logprob"] - best) / temperature) for one in allowed]
        return int(self.random.choices(allowed, weights)[0]["id"])

    def _pick_allowed(self) -> None:
        """Have one token generated among all that the grammar allows: for when none of the likeliest is."""
        assert self.matcher is not None
        mask = self.matcher.compute_bitmask()
        allowed = [[id, 100.0] for id in range(self.tokenizer.vocabulary_size) if mask[id >> 3] >> (id & 7) & 1]
        before = self.generated
        reason = self._ask(1, {"logit_bias": allowed}, self._on_token)
        if self.generated == before and reason != "stop" and not self.cancelled:
            raise EngineError("llama.cpp generated a token that its logit bias rules out")
        self.over = self.over or reason == "stop"

    def _force(self) -> bool:
        """Put what the grammar forces next behind the prompt; says whether there was anything, or the end."""
        if self.matcher is None:
            return False
        ids = self.matcher.compute_ff_tokens()
        if len(ids) >= _FORCED:
            ids = ids[: self.budget - self.generated - self.forced]
            self.matcher.consume_tokens(ids)
            self._accept(ids, forced=True)
        self.over = self.matcher.is_stopped()
        return self.over or len(ids) >= _FORCED

    def _accept(self, ids: Sequence[int], *, forced: bool = False) -> None:
        self.ids += ids
        if forced:
            self.forced += len(ids)
        else:
            self.generated += len(ids)
        if text := self.text.decode(self.tokenizer.decode(ids)):
            self.emit(Piece(text))
