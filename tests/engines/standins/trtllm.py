"""A stand-in of `trtllm-serve` (TensorRT-LLM 1.2 and later): its paths, request models, answers and refusals.

What it was read from: openai_server.py, openai_protocol.py, postprocess_handlers.py, executor/result.py and
base_worker.py of https://github.com/NVIDIA/TensorRT-LLM. What there is no source for: whether the [EOS] that ends an
output is among `token_ids`. It is here.

- What the request model refuses is a 400 `{"error": "..."}`; what is refused behind it is a 400 of the flat shape,
  `{"object": "error", "message", "type", "param", "code"}`.
- What fails where the engine itself reads the request, a prompt as long as the context or a grammar that isn't
  compiled, is flat in a whole response; a stream has begun by then, with 200, and breaks off.
- Without `guided_decoding_backend` a grammar is dropped without a word (https://github.com/NVIDIA/TensorRT/issues/4855).
- It stops at [EOS] by itself, at `<|im_end|>` where `stop_token_ids` has it; a grammar's end lets [EOS] through alone.
- A stop sequence is one of tokens: those of it that came before its last one have gone out.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from tests.engines.standins.completing import CompletionsStandin, Refused, Writing, last
from tests.engines.standins.constraints import Guide
from tests.engines.standins.serving import BrokenOff, Reply, Stream, event, of_json
from tests.engines.standins.trtllm_protocol import ChatCompletionRequest, CompletionRequest, ResponseFormat
from tests.engines.standins.vocabulary import EOS, SIZE, Spelling, ids_of

VERSION = "1.2.1"
_STOPS = (EOS,)


class TrtLlm(CompletionsStandin):
    """`backend`: the options' `guided_decoding_backend`; `context_length`: `max_seq_len`."""

    max_num_tokens = 8192

    async def answer(self, method: str, path: str, body: bytes) -> Reply | Stream:
        if method == "POST" and path in ("/v1/completions", "/v1/chat/completions"):
            try:
                return await (self._complete(body) if path == "/v1/completions" else self._chat(body))
            except Refused as refused:
                return of_json({"error": str(refused)}, 400)
            except ValueError as error:
                return _flat(str(error))
        if (method, path) == ("GET", "/health"):
            unwell = b"LLM is unavailable. Please check the server logs for more details."
            return Reply(200, kind="text/plain") if self.healthy else Reply(503, unwell, "text/plain; charset=utf-8")
        card = {"id": self.served, "object": "model", "created": int(time.time()), "owned_by": "tensorrt_llm"}
        told: dict[str, Any] = {
            "/version": {"version": VERSION},
            "/v1/models": {"object": "list", "data": [card]},
            "/server_info": {"disaggregated_params": None},
            "/metrics": [],
        }
        return of_json(told[path]) if method == "GET" and path in told else of_json({"detail": "Not Found"}, 404)

    async def _complete(self, body: bytes) -> Reply | Stream:
        request = self.read(CompletionRequest, body)
        if request.echo or request.n > 1:
            raise ValueError("this stand-in has no echo and one choice")
        _check_bias(request.logit_bias)
        guide = _guide(request.response_format)
        ids = self._prompt(request.prompt)
        head = {"id": f"cmpl-{len(self.asked)}", "object": "text_completion", "created": int(time.time())}
        head["model"] = request.model
        writing = self._write(request, self.asked[-1], ids, guide, request.max_tokens)
        if request.stream:
            return self._chunks(request, head, len(ids), writing)
        done = await last(writing)
        choice = self._choice(request, done.ids, self._spelling(request).whole(done.ids), done)
        choice |= {"context_logits": None, "disaggregated_params": None}
        return of_json({**head, "choices": [choice], "usage": _usage(len(ids), done), "prompt_token_ids": None})

    async def _chunks(
        self, request: CompletionRequest, head: dict[str, Any], prompt: int, writing: AsyncIterator[Writing]
    ) -> Stream:
        counts = request.stream_options is not None and bool(request.stream_options.include_usage)
        always = counts and request.stream_options is not None and bool(request.stream_options.continuous_usage_stats)
        count = length = 0
        try:
            async for now in writing:
                choice = self._choice(request, now.ids[count:], now.text[length:], now)
                count, length = len(now.ids), len(now.text)
                yield event({**head, "choices": [choice], "usage": _usage(prompt, now) if always else None})
        except ValueError:
            raise BrokenOff from None
        if counts:
            yield event({**head, "choices": [], "usage": _usage(prompt, now)})
        yield event("[DONE]")

    async def _chat(self, body: bytes) -> Reply | Stream:
        """Without a tool parser: calls are content."""
        request = self.read(ChatCompletionRequest, body)
        _check_bias(request.logit_bias)
        turns = [
            f"<|im_{one['role']}|>{one['role']}<|im_middle|>{one['content']}<|im_end|>" for one in request.messages
        ]
        ids = self._prompt("".join((*turns, "<|im_assistant|>assistant<|im_middle|>")))
        writing = self._write(
            request, self.asked[-1], ids, _guide(request.response_format), request.max_completion_tokens
        )
        head = {"id": f"chatcmpl-{len(self.asked)}", "created": int(time.time()), "model": request.model}
        if request.stream:
            return self._chat_chunks({**head, "object": "chat.completion.chunk"}, writing)
        done = await last(writing)
        message: dict[str, Any] = {
            "role": "assistant",
            "content": self._spelling(request).whole(done.ids),
            "reasoning_content": None,
            "tool_calls": [],
        }
        choice = {"index": 0, "message": message, "finish_reason": done.reason, "stop_reason": done.matched}
        return of_json({**head, "object": "chat.completion", "choices": [choice], "usage": _usage(len(ids), done)})

    async def _chat_chunks(self, head: dict[str, Any], writing: AsyncIterator[Writing]) -> Stream:
        def chunk(delta: dict[str, Any], reason: str | None) -> bytes:
            return event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})

        yield chunk({"role": "assistant"}, None)
        length = 0
        async for now in writing:
            yield chunk({"content": now.text[length:]}, now.reason)
            length = len(now.text)
        yield event("[DONE]")

    def _prompt(self, prompt: str | list[Any]) -> list[int]:
        ids = self.prompt(prompt)
        if len(ids) > self.max_num_tokens:
            raise ValueError(
                f"The sum of prompt length ({len(ids):.1f}), query length (0) should not exceed max_num_tokens "
                f"({self.max_num_tokens})"
            )
        return ids

    async def _write(
        self,
        request: CompletionRequest | ChatCompletionRequest,
        asked: dict[str, Any],
        prompt: list[int],
        guide: Guide | None,
        most: int | None,
    ) -> AsyncIterator[Writing]:
        limit = self._limit(prompt, most)
        stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
        words: list[tuple[list[int], int | str]] = [([id], id) for id in request.stop_token_ids or ()]
        words += [(ids_of(self.tokenizer, stop), stop) for stop in stops]
        spelling, now = self._spelling(request), Writing()
        for id in await asyncio.to_thread(self.tokens, prompt, asked, guide, _STOPS):
            await asyncio.sleep(self.pause)
            now.ids.append(id)
            word, matched = next((word for word in words if now.ids[-len(word[0]) :] == word[0]), ([], None))
            if request.ignore_eos:
                word = []
            elif id == EOS:
                now.reason, word = "stop", []
            elif word:
                now.reason, now.matched = "stop", matched
            if now.reason is None and len(now.ids) >= limit:
                now.reason = "length"
            if word and not request.include_stop_str_in_output:
                del now.ids[-len(word) :]
            else:
                now.text += spelling.feed([id])
            if now.reason is not None:
                now.text += spelling.close()
            yield now
            if now.reason is not None:
                return

    def _limit(self, prompt: list[int], most: int | None) -> int:
        left = self.context_length - len(prompt)
        if left <= 0:
            raise ValueError(
                f"`default_max_tokens` ({left}) must be greater than 0, `default_max_tokens` ({left}) = max_seq_len "
                f"({self.context_length}) - `splited_prompt_len` ({len(prompt)})"
            )
        if most is not None and most <= 0:
            raise ValueError(f"`max_tokens` ({most}) must be greater than 0")
        return left if most is None else min(most, left)

    def _spelling(self, request: CompletionRequest | ChatCompletionRequest) -> Spelling:
        return Spelling(self.tokenizer, hides=request.skip_special_tokens, spaces=request.spaces_between_special_tokens)

    def _choice(self, request: CompletionRequest, ids: list[int], text: str, now: Writing) -> dict[str, Any]:
        return {
            "index": 0,
            "text": text if request.detokenize else "",
            "token_ids": None if request.detokenize else ids,
            "logprobs": self.logprobs(ids) if request.logprobs else None,
            "finish_reason": now.reason,
            "stop_reason": now.matched,
            "avg_decoded_tokens_per_iter": None,
        }


def _guide(wanted: ResponseFormat | None) -> Guide | None:
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return Guide("json", '{"type": "object"}')
    if wanted.type == "structural_tag":
        return Guide("structural_tag", json.dumps({"type": "structural_tag", "format": wanted.format}))
    member = {"json": "schema_"}.get(wanted.type, wanted.type)
    value = getattr(wanted, member)
    if value is None:
        name = member.removesuffix("_")
        raise ValueError(
            f"response_format.{name} is required for response_format.type == {wanted.type!r}, but got None."
        )
    if isinstance(value, str):
        return Guide("regex" if wanted.type == "regex" else "ebnf", value)
    return Guide("json", json.dumps(value.get("schema", value) if wanted.type == "json_schema" else value))


def _check_bias(bias: dict[str, float] | None) -> None:
    for key in bias or ():
        if not key.isdigit():
            raise ValueError(f"Invalid logit_bias key '{key}': must be a valid integer token ID")
        if int(key) >= SIZE:
            raise ValueError(f"Token ID {key} out of vocabulary range [0, {SIZE})")


def _usage(prompt: int, now: Writing) -> dict[str, Any]:
    total, details = prompt + len(now.ids), {"cached_tokens": 0}
    written = len(now.ids)
    return {
        "prompt_tokens": prompt,
        "total_tokens": total,
        "completion_tokens": written,
        "prompt_tokens_details": details,
    }


def _flat(message: str) -> Reply:
    error = {"object": "error", "message": message, "type": "BadRequestError", "param": None, "code": 400}
    return of_json(error, 400)
