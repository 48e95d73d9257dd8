"""OpenAI's `POST /v1/chat/completions`: its body decoded to a `ChatRequest`, events encoded to its response.

Reference: https://platform.openai.com/docs/api-reference/chat. Ours are `tool_format`: `raw` or `pythonic` has the
model's own text in `content`, held to that format, in place of `tool_calls`; and the answer's `abruzzi`, which tells
what was done to it, beside `usage`: `"abruzzi": false` in a request leaves it out.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from abruzzi.chat import ChatRequest, Report
from abruzzi.engines.base import SamplingParams
from abruzzi.protocol.errors import AbruzziError, EngineError, RequestError
from abruzzi.protocol.events import ArgumentsDelta, ContentDelta, Event, Finish, ReasoningDelta, ToolCallBegin
from abruzzi.protocol.messages import Message, Tool

_OUTPUTS: Mapping[Any, Any] = {None: "tool_calls", "raw": "raw", "pythonic": "pythonic"}


@dataclass(frozen=True, slots=True)
class Call:
    """A decoded request: what is asked, and how the answer is wanted."""

    request: ChatRequest
    stream: bool
    include_usage: bool
    bare: bool
    """Whether the answer is to hold no `abruzzi`."""


def decode(body: bytes) -> Call:
    """Raises RequestError, with the path of the first fault."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"the body is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise RequestError("expected an object as the body")
    messages = _list(value, "messages")
    tools = _list(value, "tools", optional=True)
    fields = _Fields(value)
    _refuse_unsupported(value)
    if fields.integer("n", 1, None) not in (None, 1):
        raise RequestError("expected 1: one answer a request", "n")
    template = value.get("chat_template_kwargs") or {}
    if not isinstance(template, dict):
        raise RequestError("expected an object", "chat_template_kwargs")
    request = ChatRequest(
        messages=tuple(Message.from_openai(one, f"messages[{i}]") for i, one in enumerate(messages)),
        tools=tuple(Tool.from_openai(one, f"tools[{i}]") for i, one in enumerate(tools)),
        tool_choice=_tool_choice(value.get("tool_choice")),
        parallel_tool_calls=fields.boolean("parallel_tool_calls", default=True),
        output=_output(value.get("tool_format")),
        thinking=thinking_of(template.get("thinking", value.get("thinking"))),
        params=SamplingParams(
            max_tokens=fields.integer("max_completion_tokens", 1, None) or fields.integer("max_tokens", 1, None),
            temperature=fields.number("temperature", 0, 2),
            top_p=fields.number("top_p", 0, 1),
            seed=fields.integer("seed", None, None),
            stop=_stop(value.get("stop")),
        ),
    )
    options = value.get("stream_options") or {}
    if not isinstance(options, dict):
        raise RequestError("expected an object", "stream_options")
    return Call(
        request,
        stream=fields.boolean("stream", default=False),
        include_usage=bool(options.get("include_usage")),
        bare=not fields.boolean("abruzzi", default=True),
    )


def _list(value: Mapping[str, Any], key: str, *, optional: bool = False) -> list[Any]:
    items = value.get(key)
    if optional and items is None:
        return []
    if not isinstance(items, list):
        raise RequestError(f"expected a list, got {type(items).__name__}", key)
    return items


def thinking_of(value: Any) -> bool | None:
    """The switch as vLLM has it (true or false), or as Moonshot's API has it (`{"type": "enabled" | "disabled"}`)."""
    if isinstance(value, dict) and value.get("type") in ("enabled", "disabled"):
        return bool(value["type"] == "enabled")
    if not isinstance(value, bool | None):
        raise RequestError(f'expected true, false or {{"type": "enabled" | "disabled"}}, got {value!r}', "thinking")
    return value


def _tool_choice(value: Any) -> str:
    if value is None:
        return "auto"
    if value in ("auto", "none", "required"):
        return str(value)
    if (
        isinstance(value, dict)
        and isinstance(function := value.get("function"), dict)
        and isinstance(function.get("name"), str)
    ):
        if function["name"] in ("auto", "none", "required"):
            raise RequestError(f"a tool called {function['name']!r} can't be chosen by name", "tool_choice")
        return str(function["name"])
    raise RequestError(
        'expected auto, none, required or {"type": "function", "function": {"name": ...}}', "tool_choice"
    )


def _output(value: Any) -> Any:
    if not isinstance(value, str | None) or value not in _OUTPUTS:
        raise RequestError(f"expected raw or pythonic, got {value!r}", "tool_format")
    return _OUTPUTS[value]


def _refuse_unsupported(body: Mapping[str, Any]) -> None:
    """What would give the answer another form and isn't done here is refused, rather than forgotten without a word."""
    form = body.get("response_format")
    if form is not None and form != {"type": "text"}:
        raise RequestError('expected {"type": "text"}: no other form is supported yet', "response_format")
    for key in ("logprobs", "top_logprobs", "functions", "function_call", "audio"):
        if body.get(key):
            raise RequestError("not supported", key)


def _stop(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value or []
    if not isinstance(stops, list) or not all(isinstance(one, str) and one for one in stops):
        raise RequestError("expected a string or a list of strings", "stop")
    return tuple(stops)


class _Fields:
    """Scalars of the body; null counts as left out, as it does for OpenAI."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self.body = body

    def boolean(self, key: str, *, default: bool) -> bool:
        value = self.body.get(key)
        if value is not None and not isinstance(value, bool):
            raise RequestError(f"expected true or false, got {value!r}", key)
        return default if value is None else value

    def integer(self, key: str, least: int | None, most: int | None) -> int | None:
        value = self.body.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise RequestError(f"expected an integer, got {value!r}", key)
        self._check_limits(key, value, least, most)
        return value

    def number(self, key: str, least: float, most: float) -> float | None:
        value = self.body.get(key)
        if value is not None and (not isinstance(value, int | float) or isinstance(value, bool)):
            raise RequestError(f"expected a number, got {value!r}", key)
        self._check_limits(key, value, least, most)
        return value

    def _check_limits(self, key: str, value: float | None, least: float | None, most: float | None) -> None:
        if value is not None and ((least is not None and value < least) or (most is not None and value > most)):
            limits = f"at least {least}" if most is None else f"between {least} and {most}"
            raise RequestError(f"expected a value {limits}, got {value}", key)


@dataclass
class Encoder:
    """Writes one answer, whole or as chunks. `model` is the name that the answer gives; a `bare` one holds no
    `abruzzi`.
    """

    model: str
    bare: bool = False
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def completion(self, message: Message, report: Report) -> dict[str, Any]:
        choice = {
            "index": 0,
            "message": {**message.to_openai(), "refusal": None},
            "finish_reason": message.finish_reason,
            "logprobs": None,
        }
        return {**self._head("chat.completion"), "choices": [choice], **self._tail(report)}

    def opening(self) -> dict[str, Any]:
        return self._chunk({"role": "assistant", "content": ""})

    def chunk(self, event: Event) -> dict[str, Any] | None:
        match event:
            case ContentDelta(text):
                return self._chunk({"content": text})
            case ReasoningDelta(text):
                return self._chunk({"reasoning_content": text})
            case ToolCallBegin(index, id, name):
                function = {"name": name, "arguments": ""}
                return self._chunk(
                    {"tool_calls": [{"index": index, "id": id, "type": "function", "function": function}]}
                )
            case ArgumentsDelta(index, text):
                return self._chunk({"tool_calls": [{"index": index, "function": {"arguments": text}}]})
            case Finish(reason):
                return self._chunk({}, reason)
        return None

    def usage(self, report: Report) -> dict[str, Any]:
        return {**self._head("chat.completion.chunk"), "choices": [], **self._tail(report)}

    def _tail(self, report: Report) -> dict[str, Any]:
        return {"usage": _usage(report)} if self.bare else {"usage": _usage(report), "abruzzi": report.told()}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}


def _usage(report: Report) -> dict[str, Any]:
    usage = report.usage
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
    }


def error_body(error: AbruzziError) -> dict[str, Any]:
    """An error as OpenAI's clients expect it."""
    kind = "invalid_request_error" if isinstance(error, RequestError) else "server_error"
    code = type(error).__name__ if isinstance(error, EngineError) else None
    return {"error": {"message": str(error), "type": kind, "param": getattr(error, "param", None), "code": code}}
