"""OpenAI's `POST /v1/completions`: a prompt as it stands, and the model's text as it comes. Nothing is rendered, parsed
or guarded: what is in the prompt, control tokens and all, is the client's own.

Reference: https://platform.openai.com/docs/api-reference/completions.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from abruzzi.chat import ChatRequest, Report
from abruzzi.protocol.errors import AbruzziError, RequestError
from abruzzi.protocol.events import ContentDelta, Event, Finish, TokenLogprobs
from abruzzi.protocol.messages import Message
from abruzzi.server.chat_completions import MAX_ANSWERS, MAX_LOGPROBS, error_body, sampling_params, usage_of
from abruzzi.server.dialect import DONE, Call, Fields, data


class Completions:
    """The dialect of `POST /v1/completions`."""

    def decode(self, body: dict[str, Any], model: str) -> Call:
        fields = Fields(body)
        for key in ("suffix", "best_of"):
            if body.get(key) not in (None, "", 1):
                raise RequestError("not supported", key)
        params = sampling_params(fields, "max_tokens")
        prompt = _prompt(body.get("prompt"))
        encoder = Encoder(
            model,
            echoed=prompt if fields.boolean("echo", default=False) else "",
            include_usage=fields.object("stream_options").boolean("include_usage", default=False),
        )
        return Call(
            ChatRequest(
                (), prompt=prompt, params=replace(params, logprobs=fields.integer("logprobs", 0, MAX_LOGPROBS))
            ),
            encoder,
            stream=fields.boolean("stream", default=False),
            answers=fields.integer("n", 1, MAX_ANSWERS) or 1,
            model=fields.string("model") or model,
        )

    def error(self, error: AbruzziError) -> dict[str, Any]:
        return error_body(error)


def _prompt(value: Any) -> str:
    texts = value if isinstance(value, list) else [value]
    if len(texts) != 1 or not isinstance(texts[0], str):
        raise RequestError("expected one prompt, a string: token ids and several prompts aren't taken", "prompt")
    return texts[0]


@dataclass
class Encoder:
    """`echoed`: the prompt, where the answer is to begin with it."""

    model: str
    echoed: str = ""
    include_usage: bool = False
    id: str = field(default_factory=lambda: f"cmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))
    _begun: set[int] = field(default_factory=set)
    _reports: list[Report] = field(default_factory=list)

    def whole(self, answers: Sequence[tuple[Message, Report]]) -> dict[str, Any]:
        choices = [
            self._choice(index, self.echoed + (message.content or ""), message.finish_reason, report.logprobs)
            for index, (message, report) in enumerate(answers)
        ]
        return self._response(choices) | {"usage": usage_of([report for _, report in answers])}

    def begin(self) -> bytes:
        return b""

    def frames(self, items: Sequence[Event | Report], index: int) -> bytes:
        text = "" if index in self._begun else self.echoed
        self._begun.add(index)
        text += "".join(item.text for item in items if isinstance(item, ContentDelta))
        logprobs = [item for item in items if isinstance(item, TokenLogprobs)]
        self._reports += [item for item in items if isinstance(item, Report)]
        reason = next((item.reason for item in items if isinstance(item, Finish)), None)
        if not text and not logprobs and reason is None:
            return b""
        return data(self._response([self._choice(index, text, reason, logprobs)]))

    def end(self) -> bytes:
        usage = self._response([]) | {"usage": usage_of(self._reports)}
        return (data(usage) if self.include_usage else b"") + DONE

    def failed(self, error: AbruzziError) -> bytes:
        return data(error_body(error)) + DONE

    def _response(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        head = {"id": self.id, "object": "text_completion", "created": self.created, "model": self.model}
        return {**head, "choices": choices}

    def _choice(self, index: int, text: str, reason: str | None, logprobs: Sequence[TokenLogprobs]) -> dict[str, Any]:
        told = _logprobs(logprobs) if logprobs else None
        return {"index": index, "text": text, "finish_reason": reason, "logprobs": told}


def _logprobs(tokens: Sequence[TokenLogprobs]) -> dict[str, Any]:
    return {
        "tokens": [one.token for one in tokens],
        "token_logprobs": [one.logprob for one in tokens],
        "top_logprobs": [dict(one.alternatives) for one in tokens],
        "text_offset": [sum(len(before.token) for before in tokens[:at]) for at in range(len(tokens))],
    }
