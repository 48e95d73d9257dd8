"""Answers of OpenAI's chat API: events written as its chunks, or their sum as one completion."""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from abruzzi.chat import Report
from abruzzi.chat.report import usage_of
from abruzzi.engines.base import Usage
from abruzzi.protocol.errors import AbruzziError, PromptTooLong, RequestError
from abruzzi.protocol.events import (
    ArgumentsDelta,
    ContentDelta,
    Event,
    Finish,
    ReasoningDelta,
    TokenLogprobs,
    ToolCallBegin,
    ToolCallEnd,
)
from abruzzi.protocol.messages import Message, ToolCall
from abruzzi.server.custom_tools import input_of
from abruzzi.server.dialect import DONE, data


@dataclass
class Encoder:
    """`model` is the name that the response gives; a `bare` one holds no `abruzzi`. `custom`: the names of tools that
    take free text, which a stream has in one piece, when the JSON that it is written in is whole.
    """

    model: str
    bare: bool = False
    include_usage: bool = False
    include_reasoning: bool = True
    custom: Collection[str] = ()
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))
    _begin: bytes = b""
    _begun: set[int] = field(default_factory=set)
    _reports: list[Report] = field(default_factory=list)
    _inputs: dict[tuple[int, int], list[str]] = field(default_factory=dict)
    """What has come of each input that isn't whole, by the indices of its answer and its call."""

    def whole(self, answers: Sequence[tuple[Message, Report]]) -> dict[str, Any]:
        choices = [
            {
                "index": index,
                "message": self._message(message),
                "finish_reason": message.finish_reason,
                "logprobs": _logprobs(report.logprobs) if report.logprobs else None,
            }
            for index, (message, report) in enumerate(answers)
        ]
        self._reports += [report for _, report in answers]
        return {**self._head("chat.completion"), "choices": choices, **self._tail()}

    def _message(self, message: Message) -> dict[str, Any]:
        told = {**message.to_openai(), "refusal": None}
        if self.custom and message.tool_calls:
            told["tool_calls"] = [self._call(call) for call in message.tool_calls]
        if not self.include_reasoning:
            told.pop("reasoning_content", None)
        return told

    def _call(self, call: ToolCall) -> dict[str, Any]:
        if call.function.name not in self.custom:
            return call.to_openai()
        custom = {"name": call.function.name, "input": input_of(call.function.arguments)}
        return {"id": call.id, "type": "custom", "custom": custom}

    def begin(self) -> bytes:
        return b""

    def frames(self, items: Sequence[Event | Report], index: int) -> bytes:
        frames = [] if index in self._begun else [self._first(index, items[0])]
        for item in items:
            if isinstance(item, Report):
                self._reports.append(item)
            elif delta := self._delta(item, index):
                frames.append(self._frame(index, delta))
            elif isinstance(item, TokenLogprobs):
                frames.append(self._frame(index, {}, logprobs=_logprobs([item])))
            elif isinstance(item, Finish):
                frames.append(self._frame(index, {}, item.reason))
        return b"".join(frames)

    def _first(self, index: int, item: Event | Report) -> bytes:
        """The role. Where no text may follow the content begins as null, which it is in the whole message, too."""
        self._begun.add(index)
        return self._frame(index, {"role": "assistant", "content": "" if isinstance(item, ContentDelta) else None})

    def _delta(self, event: Event, answer: int) -> dict[str, Any] | None:
        match event:
            case ContentDelta(text):
                return {"content": text}
            case ReasoningDelta(text):
                return {"reasoning_content": text} if self.include_reasoning else None
            case ToolCallBegin(index, id, name):
                if name in self.custom:
                    self._inputs[answer, index] = []
                    begun = {"type": "custom", "custom": {"name": name, "input": ""}}
                else:
                    begun = {"type": "function", "function": {"name": name, "arguments": ""}}
                return {"tool_calls": [{"index": index, "id": id, **begun}]}
            case ArgumentsDelta(index, text):
                if (parts := self._inputs.get((answer, index))) is not None:
                    parts.append(text)
                    return None
                return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}
            case ToolCallEnd(index) if parts := self._inputs.pop((answer, index), None):
                return {"tool_calls": [{"index": index, "custom": {"input": input_of("".join(parts))}}]}
        return None

    def end(self) -> bytes:
        usage = {**self._head("chat.completion.chunk"), "choices": [], **self._tail()}
        return (data(usage) if self.include_usage else b"") + DONE

    def failed(self, error: AbruzziError) -> bytes:
        return data(error_body(error, "messages")) + DONE

    def _tail(self) -> dict[str, Any]:
        usage = usage_told(usage_of(dict(enumerate(self._reports)), max(1, len(self._reports))))
        if self.bare:
            return {"usage": usage}
        told = [report.told() for report in self._reports]
        return {"usage": usage, "abruzzi": told[0] if len(told) == 1 else told}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _frame(
        self, index: int, delta: dict[str, Any], finish_reason: str | None = None, logprobs: Any = None
    ) -> bytes:
        """A chunk. Its head is the same for all, and is written once."""
        if not self._begin:
            head = self._head("chat.completion.chunk") | ({"usage": None} if self.include_usage else {})
            self._begin = b"data: " + msgspec.json.encode(head)[:-1] + b',"choices":['
        choice = {"index": index, "delta": delta, "finish_reason": finish_reason, "logprobs": logprobs}
        return b"%b%b]}\n\n" % (self._begin, msgspec.json.encode(choice))


def _logprobs(tokens: Sequence[TokenLogprobs]) -> dict[str, Any]:
    content = [
        {
            **_logprob(one.token, one.logprob),
            "top_logprobs": [_logprob(token, logprob) for token, logprob in one.alternatives],
        }
        for one in tokens
    ]
    return {"content": content, "refusal": None}


def _logprob(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}


def usage_told(usage: Usage) -> dict[str, Any]:
    """What answers cost, as OpenAI's API has it."""
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
    }


def error_body(error: AbruzziError, prompt: str) -> dict[str, Any]:
    """An error as OpenAI's clients expect it; `prompt`: where the request has what may be too long."""
    kind = "invalid_request_error" if isinstance(error, RequestError) else "server_error"
    param = prompt if isinstance(error, PromptTooLong) else getattr(error, "param", None)
    return {"error": {"message": str(error), "type": kind, "param": param, "code": error.code}}
