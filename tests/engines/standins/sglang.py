"""A stand-in of SGLang's server (0.5.23): its paths, request models, answers and refusals.

What it was read from, in SGLang's wheel: srt/entrypoints/http_server.py, entrypoints/openai/protocol.py and
serving_completions.py, managers/tokenizer_manager.py, schedule_batch.py and detokenizer_manager.py.

- Every refusal is flat, `{"object": "error", "message", "type", "param", "code"}`; what fails once a stream has begun,
  a grammar that isn't compiled among it, is an event `{"error": {...}}` of that shape, and then `[DONE]`.
- It stops at the tokenizer's [EOS], at the `<|im_end|>` of the model's generation_config, and at `stop_token_ids`:
  `matched_stop` is the token or the sequence. The token is among `token_ids`, and in the text with `no_stop_trim`.
- `return_token_ids`: `token_ids` of each chunk, `prompt_token_ids` of the first one; both of a choice that comes whole.
- A prompt and its `max_tokens` have to fit the context together.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from tests.engines.standins.completing import CompletionsStandin, Refused, Writing, last
from tests.engines.standins.constraints import Guide
from tests.engines.standins.serving import Reply, Stream, event, of_json
from tests.engines.standins.sglang_protocol import (
    CompletionRequest,
    JsonSchema,
    LegacyStructuralTag,
    StructuralTag,
    TokenizeRequest,
)
from tests.engines.standins.vocabulary import EOS, IM_END, SIZE, Spelling, ids_of

VERSION = "0.5.23"
_STOPS = (EOS, IM_END)
_UNGUIDED = (
    "Grammar-based generation (json_schema, regex, ebnf, structural_tag) is not supported when the server is launched "
    "with --grammar-backend none"
)


class Sglang(CompletionsStandin):
    """`backend`: `--grammar-backend`, SGLang's own default for which is xgrammar."""

    async def answer(self, method: str, path: str, body: bytes) -> Reply | Stream:
        try:
            if (method, path) == ("POST", "/v1/completions"):
                return await self._complete(body)
            if method == "POST" and path in ("/tokenize", "/v1/tokenize"):
                return self._tokenize(body)
        except Refused as refused:
            return of_json(_error(str(refused), "Bad Request"), 400)
        except ValueError as error:
            return of_json(_error(str(error)), 400)
        if method == "GET" and path in ("/health", "/health_generate"):
            return Reply(200 if self.healthy else 503, kind="text/plain")
        card = {"id": self.served, "object": "model", "created": int(time.time()), "owned_by": "sglang"}
        card |= {"root": self.served, "parent": None, "max_model_len": self.context_length}
        told = {
            "/v1/models": {"object": "list", "data": [card]},
            "/model_info": {"model_path": self.served, "served_model_name": self.served, "is_generation": True},
            "/server_info": {
                "model_path": self.served,
                "served_model_name": self.served,
                "context_length": self.context_length,
                "grammar_backend": self.backend or "none",
                "internal_states": [{}],
                "version": VERSION,
            },
        }
        return of_json(told[path]) if method == "GET" and path in told else of_json({"detail": "Not Found"}, 404)

    def _tokenize(self, body: bytes) -> Reply:
        request = TokenizeRequest.model_validate_json(body)
        if isinstance(request.prompt, list):
            tokens: Any = [ids_of(self.tokenizer, text) for text in request.prompt]
            count: Any = [len(ids) for ids in tokens]
        else:
            tokens = ids_of(self.tokenizer, request.prompt)
            count = len(tokens)
        return of_json({"tokens": tokens, "count": count, "max_model_len": self.context_length})

    async def _complete(self, body: bytes) -> Reply | Stream:
        request = self.read(CompletionRequest, body)
        if not request.prompt:
            raise ValueError("Prompt cannot be empty")
        if request.echo or request.n > 1 or request.stop_regex:
            raise ValueError("this stand-in has no echo, no stop_regex, and one choice")
        ids = self.prompt(request.prompt)
        guide = self._checked(request, ids)
        head = {
            "id": request.rid or f"{len(self.asked):032x}",
            "object": "text_completion",
            "created": int(time.time()),
        }
        head["model"] = request.model
        writing = self._write(request, self.asked[-1], ids, guide)
        if request.stream:
            return self._chunks(request, head, ids, writing)
        done = await last(writing)
        choice = self._choice(request, done, done.ids, done.text, ids)
        usage = _usage(len(ids), len(done.ids))
        return of_json({**head, "choices": [choice], "usage": usage, "metadata": {"weight_version": "default"}})

    def _checked(self, request: CompletionRequest, ids: list[int]) -> Guide | None:
        """The grammar of a request that is taken."""
        guides = _guides(request)
        if len(ids) >= self.context_length:
            raise ValueError(
                f"The input ({len(ids)} tokens) is longer than the model's context length "
                f"({self.context_length} tokens)."
            )
        if len(ids) + request.max_tokens > self.context_length:
            raise ValueError(
                f"Requested token count exceeds the model's maximum context length of {self.context_length} tokens. "
                f"You requested a total of {len(ids) + request.max_tokens} tokens: {len(ids)} tokens from the input "
                f"messages and {request.max_tokens} tokens for the completion. Please reduce the number of tokens in "
                "the input messages or the completion to fit within the limit."
            )
        bounds = {
            "top_p": 0 < request.top_p <= 1,
            "temperature": request.temperature >= 0,
            "min_p": 0 <= request.min_p <= 1,
            "top_k": request.top_k >= 1 or request.top_k == -1,
            "frequency_penalty": -2 <= request.frequency_penalty <= 2,
            "presence_penalty": -2 <= request.presence_penalty <= 2,
            "repetition_penalty": 0 < request.repetition_penalty <= 2,
            "min_new_tokens": 0 <= request.min_tokens <= request.max_tokens,
            "logit_bias": all(0 <= int(id) < SIZE for id in request.logit_bias or ()),
        }
        for name, holds in bounds.items():
            if not holds:
                raise ValueError(f"{name} is out of its bounds")
        if len(guides) > 1:
            raise ValueError("Only one of json_schema, regex, ebnf, or structural_tag can be set.")
        return guides[0] if guides else None

    async def _chunks(
        self, request: CompletionRequest, head: dict[str, Any], prompt: list[int], writing: AsyncIterator[Writing]
    ) -> Stream:
        options = request.stream_options
        count = length = 0
        try:
            async for now in writing:
                choice = self._choice(request, now, now.ids[count:], now.text[length:], None if count else prompt)
                count, length = len(now.ids), len(now.text)
                always = options is not None and options.continuous_usage_stats
                yield event({**head, "choices": [choice], "usage": _usage(len(prompt), count) if always else None})
            if options is not None and options.include_usage:
                usage = {key: value for key, value in _usage(len(prompt), count).items() if value is not None}
                yield event({**head, "choices": [], "usage": usage})
        except ValueError as error:
            yield event({"error": _error(str(error), "BAD_REQUEST")})
        yield event("[DONE]")

    async def _write(
        self, request: CompletionRequest, asked: dict[str, Any], prompt: list[int], guide: Guide | None
    ) -> AsyncIterator[Writing]:
        if guide is not None and self.backend is None:
            raise ValueError(_UNGUIDED)
        stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
        spelling, now = Spelling(self.tokenizer, hides=request.skip_special_tokens), Writing()
        for id in await asyncio.to_thread(self._tokens, prompt, asked, guide):
            await asyncio.sleep(self.pause)
            now.ids.append(id)
            if len(now.ids) >= request.max_tokens:
                now.reason = "length"
            if not request.ignore_eos and id in (*_STOPS, *(request.stop_token_ids or ())):
                now.reason, now.matched = "stop", id
            if now.matched is None or request.no_stop_trim:
                now.text += spelling.feed([id])
            if now.reason is not None:
                now.text += spelling.close()
            found = next((stop for stop in stops if stop in now.text), None)
            if now.matched is None and found is not None:
                now.reason, now.matched = "stop", found
                now.text = now.text[: now.text.index(found) + len(found) * request.no_stop_trim]
            yield now
            if now.reason is not None:
                return

    def _tokens(self, prompt: list[int], asked: dict[str, Any], guide: Guide | None) -> Any:
        try:
            return self.tokens(prompt, asked, guide, _STOPS)
        except ValueError as error:
            assert guide is not None
            raise ValueError(f"Failed to compile {guide.kind} grammar: {error}") from None

    def _choice(
        self, request: CompletionRequest, now: Writing, ids: list[int], text: str, prompt: list[int] | None
    ) -> dict[str, Any]:
        choice = {
            "index": 0,
            "text": text,
            "logprobs": None if request.logprobs is None else self.logprobs(ids),
            "finish_reason": now.reason,
            "matched_stop": now.matched,
        }
        if request.return_token_ids:
            choice["token_ids"] = ids
            if prompt is not None:
                choice["prompt_token_ids"] = prompt
        return choice


def _guides(request: CompletionRequest) -> list[Guide]:
    wanted = request.response_format
    guides = [Guide("json", request.json_schema)] if request.json_schema is not None else []
    guides += [Guide("regex", request.regex)] if request.regex is not None else []
    guides += [Guide("ebnf", request.ebnf)] if request.ebnf is not None else []
    if isinstance(wanted, StructuralTag | LegacyStructuralTag):
        guides.append(Guide("structural_tag", json.dumps(wanted.model_dump(by_alias=True))))
    elif wanted is not None and wanted.type != "text":
        schema = wanted.json_schema.schema_ if isinstance(wanted.json_schema, JsonSchema) else None
        if wanted.type == "json_schema" and schema is None:
            raise ValueError("schema_ is required for json_schema response format request.")
        # It takes the place of `json_schema` beside it.
        guides = [one for one in guides if one.kind != "json"]
        guides.append(Guide("json", json.dumps({"type": "object"} if wanted.type == "json_object" else schema)))
    return guides


def _usage(prompt: int, written: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "total_tokens": prompt + written,
        "completion_tokens": written,
        "prompt_tokens_details": None,
        "reasoning_tokens": 0,
        "completion_tokens_details": None,
    }


def _error(message: str, kind: str = "BadRequestError") -> dict[str, Any]:
    return {"object": "error", "message": message, "type": kind, "param": None, "code": 400}
