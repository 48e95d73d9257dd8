"""OpenAI's `POST /v1/completions`: prompts as they stand, and the model's text as it comes. Nothing is rendered, parsed
or guarded: what is in a prompt, control tokens and all, is the client's own.

Reference: https://platform.openai.com/docs/api-reference/completions. Until a choice of a stream has ended its
`finish_reason` is null, as OpenAI's server, vLLM and all others have it, though the description has no null there.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from abruzzi.chat import ChatRequest, Report
from abruzzi.chat.report import usage_of
from abruzzi.protocol.errors import AbruzziError, EngineError, RequestError
from abruzzi.protocol.events import ContentDelta, Event, Finish, TokenLogprobs
from abruzzi.protocol.messages import Message
from abruzzi.protocol.tokens import Tokenizer
from abruzzi.server.chat_completions import MAX_ANSWERS, MAX_LOGPROBS
from abruzzi.server.chat_output import error_body, usage_told
from abruzzi.server.dialect import DONE, Call, Dialect, Fields, data
from abruzzi.server.openai_fields import check_unused, refuse_unsupported
from abruzzi.server.sampling import sampling_params

_UNSUPPORTED = {"suffix": "not supported here: the model only writes on, behind its prompt"}


class Completions(Dialect):
    """The dialect of `POST /v1/completions`. `tokenizer`: reads prompts of token ids, where the model's is at hand."""

    def __init__(self, tokenizer: Tokenizer | None = None) -> None:
        self._tokenizer = tokenizer

    def decode(self, body: dict[str, Any], model: str, owner: bytes | None = None) -> Call:
        fields = Fields(body)
        refuse_unsupported(fields, _UNSUPPORTED)
        check_unused(fields)
        fields.string("suffix")
        if fields.integer("max_tokens") == 0:
            raise RequestError("expected at least 1, got 0: a prompt isn't answered with nothing here", "max_tokens")
        logprobs = fields.integer("logprobs", 0, MAX_LOGPROBS)
        params = replace(sampling_params(fields, "max_tokens"), logprobs=logprobs)
        echoes = fields.boolean("echo", default=False)
        if echoes and logprobs is not None:
            raise RequestError("expected echo without logprobs: how likely a prompt is isn't told here", "echo")
        prompts = self._prompts(body.get("prompt"))
        answers = _answers(fields, len(prompts))
        encoder = Encoder(
            model,
            answers,
            echoed=prompts if echoes else (),
            include_usage=fields.object("stream_options").boolean("include_usage", default=False),
        )
        first, *others = (ChatRequest((), prompt=prompt, params=params) for prompt in prompts)
        stream = fields.boolean("stream", default=False)
        name = fields.string("model") or model
        return Call(first, encoder, stream=stream, answers=answers, model=name, others=others)

    def error(self, error: AbruzziError) -> dict[str, Any]:
        return error_body(error, "prompt")

    def _prompts(self, value: Any) -> list[str]:
        """A text, the ids of its tokens, or a list of several such."""
        if isinstance(value, str):
            return [self._read(value, "prompt")]
        if not isinstance(value, list) or not value:
            raise RequestError("expected a string, a list of strings, or ids of tokens", "prompt")
        if _is_id(value[0]):
            return [self._read(value, "prompt")]
        return [self._read(one, f"prompt[{index}]") for index, one in enumerate(value)]

    def _read(self, value: Any, where: str) -> str:
        if isinstance(value, str):
            if not value:  # engines have nothing to go on from, and refuse it
                raise RequestError("expected a string that isn't empty", where)
            return value
        return self._decoded(value, where)

    def _decoded(self, ids: Any, where: str) -> str:
        if not isinstance(ids, list) or not ids or not all(map(_is_id, ids)):
            raise RequestError("expected a string, or ids of tokens", where)
        if self._tokenizer is None:
            raise RequestError("expected a string, got ids of tokens: the model's tokenizer isn't at hand here", where)
        try:
            return self._tokenizer.decode(ids)
        except EngineError as error:  # it is the engine's tokens that it reads else
            raise RequestError(str(error), where) from None


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _answers(fields: Fields, prompts: int) -> int:
    """How many are wanted to each prompt."""
    answers = fields.integer("n", 1, MAX_ANSWERS) or 1
    if answers * prompts > MAX_ANSWERS:
        reason = f"expected at most {MAX_ANSWERS} answers in all, got {prompts} prompts with {answers} each"
        raise RequestError(reason, "prompt")
    best_of = fields.integer("best_of", 0)
    if best_of not in (None, answers):
        raise RequestError(f"expected {answers}, as many as n, got {best_of}: answers aren't ranked here", "best_of")
    return answers


@dataclass
class Encoder:
    """`answers`: how many there are to each prompt. `echoed`: the prompts, where answers are to begin with them."""

    model: str
    answers: int = 1
    echoed: Sequence[str] = ()
    include_usage: bool = False
    id: str = field(default_factory=lambda: f"cmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))
    _lengths: dict[int, int] = field(default_factory=dict)
    """Characters of each answer that have gone out."""
    _reports: dict[int, Report] = field(default_factory=dict)

    def whole(self, answers: Sequence[tuple[Message, Report]]) -> dict[str, Any]:
        self._reports = {index: report for index, (_, report) in enumerate(answers)}
        choices = [
            self._choice(index, message.content or "", message.finish_reason, report.logprobs)
            for index, (message, report) in enumerate(answers)
        ]
        return self._response(choices) | {"usage": self._usage()}

    def begin(self) -> bytes:
        return b""

    def frames(self, items: Sequence[Event | Report], index: int) -> bytes:
        text = "".join(item.text for item in items if isinstance(item, ContentDelta))
        logprobs = [item for item in items if isinstance(item, TokenLogprobs)]
        if isinstance(items[-1], Report):
            self._reports[index] = items[-1]
        reason = next((item.reason for item in items if isinstance(item, Finish)), None)
        choice = self._choice(index, text, reason, logprobs)
        if not choice["text"] and not logprobs and reason is None:
            return b""
        return data(self._response([choice]) | ({"usage": None} if self.include_usage else {}))

    def end(self) -> bytes:
        usage = self._response([]) | {"usage": self._usage()}
        return (data(usage) if self.include_usage else b"") + DONE

    def failed(self, error: AbruzziError) -> bytes:
        return data(error_body(error, "prompt")) + DONE

    def _response(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        head = {"id": self.id, "object": "text_completion", "created": self.created, "model": self.model}
        return {**head, "choices": choices}

    def _choice(self, index: int, text: str, reason: str | None, logprobs: Sequence[TokenLogprobs]) -> dict[str, Any]:
        """More of an answer, or all of it."""
        if index not in self._lengths and self.echoed:
            text = self.echoed[index // self.answers] + text
        before = self._lengths.get(index, 0)
        self._lengths[index] = before + len(text)
        told = _logprobs(logprobs, before) if logprobs else None
        return {"index": index, "text": text, "finish_reason": reason, "logprobs": told}

    def _usage(self) -> dict[str, Any]:
        return usage_told(usage_of(self._reports, self.answers))


def _logprobs(tokens: Sequence[TokenLogprobs], before: int) -> dict[str, Any]:
    """`before`: characters of the answer that came before these tokens."""
    offsets = [before]
    for one in tokens:
        offsets.append(offsets[-1] + len(one.token))
    return {
        "tokens": [one.token for one in tokens],
        "token_logprobs": [one.logprob for one in tokens],
        "top_logprobs": [dict(one.alternatives) for one in tokens],
        "text_offset": offsets[:-1],
    }
