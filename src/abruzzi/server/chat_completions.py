"""OpenAI's `POST /v1/chat/completions`: its body decoded to a `ChatRequest`, events encoded to its response.

Reference: https://platform.openai.com/docs/api-reference/chat. Ours are `tool_format`: `raw` or `pythonic` has the
model's own text in `content`, held to that format, in place of `tool_calls`; and the answer's `abruzzi`, which tells
what was done to it, beside `usage`: `"abruzzi": false` in a request leaves it out.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from abruzzi.chat import ChatRequest, Report
from abruzzi.guide.schema import compile
from abruzzi.guide.strict import check_strict
from abruzzi.protocol.errors import AbruzziError, PromptTooLong, RequestError
from abruzzi.protocol.events import (
    ArgumentsDelta,
    ContentDelta,
    Event,
    Finish,
    ReasoningDelta,
    TokenLogprobs,
    ToolCallBegin,
)
from abruzzi.protocol.kept import made_of
from abruzzi.protocol.messages import Message, Tool, Tools
from abruzzi.protocol.variants import variant_of_model
from abruzzi.server.chat_messages import read_message
from abruzzi.server.dialect import DONE, Call, Dialect, Fields, data
from abruzzi.server.openai_fields import EFFORTS, check_unused, refuse_unsupported
from abruzzi.server.sampling import sampling_params

_OUTPUTS: Mapping[Any, Any] = {None: "tool_calls", "raw": "raw", "pythonic": "pythonic"}
_UNSUPPORTED: Mapping[str, str] = dict.fromkeys(("functions", "function_call"), "not supported here: expected tools")
MAX_ANSWERS = 128
MAX_LOGPROBS = 20


class ChatCompletions(Dialect):
    """The dialect of `POST /v1/chat/completions`."""

    def decode(self, body: dict[str, Any], model: str, owner: bytes | None = None) -> Call:
        fields = Fields(body)
        refuse_unsupported(fields, _UNSUPPORTED)
        check_unused(fields)
        choice, allowed = _tool_choice(body.get("tool_choice"))
        request = ChatRequest(
            messages=tuple(read_message(one, f"messages[{i}]") for i, one in enumerate(fields.list("messages"))),
            tools=made_of(fields.list("tools", optional=True), self.read_tools),
            tool_choice=choice,
            allowed_tools=allowed,
            parallel_tool_calls=fields.boolean("parallel_tool_calls", default=True),
            output=_output(body.get("tool_format")),
            thinking=_thinking(fields, model),
            answer=None if body.get("response_format") is None else _answer(fields.object("response_format")),
            params=replace(
                sampling_params(fields, "max_completion_tokens", "max_tokens"), logprobs=_logprobs_wanted(fields)
            ),
        )
        encoder = Encoder(
            model,
            bare=not fields.boolean("abruzzi", default=True),
            include_usage=fields.object("stream_options").boolean("include_usage", default=False),
        )
        return Call(
            request,
            encoder,
            stream=fields.boolean("stream", default=False),
            answers=fields.integer("n", 1, MAX_ANSWERS) or 1,
            model=fields.string("model") or model,
        )

    @staticmethod
    def read_tools(values: Sequence[Any]) -> Tools:
        return Tools(Tool.from_openai(one, f"tools[{i}]") for i, one in enumerate(values))

    def error(self, error: AbruzziError) -> dict[str, Any]:
        return error_body(error, "messages")


def _thinking(fields: Fields, model: str) -> bool | None:
    """The switch, or else an effort of none where it can be obeyed: no model of K2's family knows more of an effort."""
    effort = fields.one_of("reasoning_effort", *EFFORTS)
    template = fields.object("chat_template_kwargs")
    switch = fields if template.value.get("thinking") is None else template
    thinking = thinking_of(switch.value.get("thinking"), switch.at("thinking"))
    if thinking is not None or effort not in ("none", "minimal"):
        return thinking
    return None if always_thinks(model) else False


def always_thinks(model: str) -> bool:
    """Whether a model can't be kept from thinking, as far as its name tells."""
    row = variant_of_model(model)
    return row is not None and row.thinks and not row.opens_thinking


def thinking_of(value: Any, where: str = "thinking") -> bool | None:
    """The switch as vLLM has it (true or false), or as Moonshot's API has it (`{"type": "enabled" | "disabled"}`)."""
    if isinstance(value, dict) and value.get("type") in ("enabled", "disabled"):
        return bool(value["type"] == "enabled")
    if not isinstance(value, bool | None):
        raise RequestError(f'expected true, false or {{"type": "enabled" | "disabled"}}, got {value!r}', where)
    return value


def _tool_choice(value: Any) -> tuple[str, Sequence[str] | None]:
    """The choice, and the names that it is among, where those are told."""
    if value is None:
        return "auto", None
    if value in ("auto", "none", "required"):
        return str(value), None
    if isinstance(value, dict) and value.get("type") == "allowed_tools":
        allowed = Fields(value, "tool_choice").object("allowed_tools")
        mode = allowed.string("mode")
        if mode not in ("auto", "required"):
            raise RequestError(f"expected auto or required, got {mode!r}", allowed.at("mode"))
        return mode, [_named(one, f"{allowed.at('tools')}[{i}]") for i, one in enumerate(allowed.list("tools"))]
    return _named(value, "tool_choice"), None


def _named(value: Any, where: str) -> str:
    function = value.get("function") if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(name := function.get("name"), str):
        expected = '{"type": "function", "function": {"name": ...}}'
        raise RequestError(f"expected {'auto, none, required or ' * (where == 'tool_choice')}{expected}", where)
    if name in ("auto", "none", "required"):
        raise RequestError(f"a tool called {name!r} can't be chosen by name", where)
    return name


def _answer(form: Fields) -> Mapping[str, Any] | None:
    """The schema of the answer that `response_format` asks for. Raises RequestError where it is none of an object."""
    match form.string("type"):
        case "text":
            return None
        case "json_object":
            return {"type": "object"}
        case "json_schema":
            wanted = form.object("json_schema")
            if form.value.get("json_schema") is None:
                raise RequestError("expected an object with the form's name and schema, got none", wanted.where)
            if not wanted.string("name"):
                raise RequestError("expected the form's name, a non-empty string", wanted.at("name"))
            return answer_schema(wanted)
    raise RequestError(f"expected text, json_object or json_schema, got {form.value.get('type')!r}", form.at("type"))


def answer_schema(wanted: Fields) -> Mapping[str, Any]:
    """The `schema` of a form that is asked for, checked."""
    schema = wanted.object("schema")
    if wanted.boolean("strict", default=False):
        check_strict(schema.value, wanted.at("schema"))
    compile(schema.value, name=wanted.string("name") or "the answer", where=wanted.at("schema"))
    return schema.value


def _output(value: Any) -> Any:
    if not isinstance(value, str | None) or value not in _OUTPUTS:
        raise RequestError(f"expected raw or pythonic, got {value!r}", "tool_format")
    return _OUTPUTS[value]


def _logprobs_wanted(fields: Fields) -> int | None:
    """How many alternatives to each token are wanted; None where no logprobs are."""
    wanted = fields.boolean("logprobs", default=False)
    count = fields.integer("top_logprobs", 0, MAX_LOGPROBS)
    if count is not None and not wanted:
        raise RequestError("expected logprobs to be true where alternatives are asked for", "top_logprobs")
    return (count or 0) if wanted else None


@dataclass
class Encoder:
    """`model` is the name that the response gives; a `bare` one holds no `abruzzi`."""

    model: str
    bare: bool = False
    include_usage: bool = False
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))
    _begin: bytes = b""
    _begun: set[int] = field(default_factory=set)
    _reports: list[Report] = field(default_factory=list)

    def whole(self, answers: Sequence[tuple[Message, Report]]) -> dict[str, Any]:
        choices = [
            {
                "index": index,
                "message": {**message.to_openai(), "refusal": None},
                "finish_reason": message.finish_reason,
                "logprobs": _logprobs(report.logprobs) if report.logprobs else None,
            }
            for index, (message, report) in enumerate(answers)
        ]
        self._reports += [report for _, report in answers]
        return {**self._head("chat.completion"), "choices": choices, **self._tail()}

    def begin(self) -> bytes:
        return b""

    def frames(self, items: Sequence[Event | Report], index: int) -> bytes:
        frames = [] if index in self._begun else [self._first(index, items[0])]
        for item in items:
            if isinstance(item, Report):
                self._reports.append(item)
            elif delta := _delta(item):
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

    def end(self) -> bytes:
        usage = {**self._head("chat.completion.chunk"), "choices": [], **self._tail()}
        return (data(usage) if self.include_usage else b"") + DONE

    def failed(self, error: AbruzziError) -> bytes:
        return data(error_body(error, "messages")) + DONE

    def _tail(self) -> dict[str, Any]:
        if self.bare:
            return {"usage": usage_of(self._reports)}
        told = [report.told() for report in self._reports]
        return {"usage": usage_of(self._reports), "abruzzi": told[0] if len(told) == 1 else told}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _frame(
        self, index: int, delta: dict[str, Any], finish_reason: str | None = None, logprobs: Any = None
    ) -> bytes:
        """A chunk. Its head is the same for all, and is written once."""
        if not self._begin:
            self._begin = b"data: " + msgspec.json.encode(self._head("chat.completion.chunk"))[:-1] + b',"choices":['
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


def _delta(event: Event) -> dict[str, Any] | None:
    match event:
        case ContentDelta(text):
            return {"content": text}
        case ReasoningDelta(text):
            return {"reasoning_content": text}
        case ToolCallBegin(index, id, name):
            function = {"name": name, "arguments": ""}
            return {"tool_calls": [{"index": index, "id": id, "type": "function", "function": function}]}
        case ArgumentsDelta(index, text):
            return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}
    return None


def usage_of(reports: Sequence[Report]) -> dict[str, Any]:
    """What answers to one prompt cost: it is read once, however many there are."""
    prompt = max((report.usage.prompt for report in reports), default=0)
    completion = sum(report.usage.completion for report in reports)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": max((report.usage.cached for report in reports), default=0)},
    }


def error_body(error: AbruzziError, prompt: str) -> dict[str, Any]:
    """An error as OpenAI's clients expect it; `prompt`: where the request has what may be too long."""
    kind = "invalid_request_error" if isinstance(error, RequestError) else "server_error"
    param = prompt if isinstance(error, PromptTooLong) else getattr(error, "param", None)
    return {"error": {"message": str(error), "type": kind, "param": param, "code": error.code}}
