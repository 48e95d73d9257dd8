"""OpenAI's `POST /v1/chat/completions`: its body decoded to a `ChatRequest`.

Reference: https://platform.openai.com/docs/api-reference/chat. The answer is written in `chat_output.py`. Ours are
`tool_format`: `raw` or `pythonic` has the model's own text in `content`, held to that format, in place of `tool_calls`;
and the answer's `abruzzi`, which tells what was done to it, beside `usage`: `"abruzzi": false` in a request leaves it
out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from abruzzi.chat import ChatRequest
from abruzzi.guide.schema import compile
from abruzzi.guide.strict import check_strict
from abruzzi.protocol.errors import AbruzziError, RequestError
from abruzzi.protocol.kept import made_of
from abruzzi.protocol.variants import K2, Variant
from abruzzi.server.chat_messages import read_message
from abruzzi.server.chat_output import Encoder, error_body
from abruzzi.server.chat_tools import Declared, read_choice, read_tools
from abruzzi.server.dialect import Call, Dialect, Fields
from abruzzi.server.openai_fields import check_unused, refuse_unsupported, unknown
from abruzzi.server.sampling import sampling_params
from abruzzi.server.thinking import keeps_thinking, switched, thinking_asked

_OUTPUTS: Mapping[Any, Any] = {None: "tool_calls", "raw": "raw", "pythonic": "pythonic"}
_UNSUPPORTED: Mapping[str, str] = dict.fromkeys(("functions", "function_call"), "not supported here: expected tools")
# What is read here, beside what openai_fields.py knows.
READ = frozenset(
    (
        "abruzzi",
        "chat_template_kwargs",
        "frequency_penalty",
        "include_reasoning",
        "logit_bias",
        "logprobs",
        "max_completion_tokens",
        "max_tokens",
        "messages",
        "min_p",
        "model",
        "n",
        "parallel_tool_calls",
        "presence_penalty",
        "reasoning_effort",
        "repetition_penalty",
        "response_format",
        "seed",
        "stop",
        "stream",
        "temperature",
        "thinking",
        "tool_choice",
        "tool_format",
        "tools",
        "top_k",
        "top_logprobs",
        "top_p",
        *_UNSUPPORTED,
    )
)
MAX_ANSWERS = 128
MAX_LOGPROBS = 20


class ChatCompletions(Dialect):
    """The dialect of `POST /v1/chat/completions`, in front of a model of this variant."""

    def __init__(self, variant: Variant = K2) -> None:
        self._variant = variant

    def decode(self, body: dict[str, Any], model: str, owner: bytes | None = None) -> Call:
        fields = Fields(body)
        refuse_unsupported(fields, _UNSUPPORTED)
        check_unused(fields)
        declared = made_of(fields.list("tools", optional=True), self.read_tools)
        choice, allowed = read_choice(body.get("tool_choice"), declared)
        output = _output(body.get("tool_format"))
        answer = None if body.get("response_format") is None else _answer(fields.object("response_format"))
        if answer is not None and output != "tool_calls":
            raise RequestError(f"an answer of a form of its own can't be had as {output} text", "tool_format")
        request = ChatRequest(
            messages=tuple(read_message(one, f"messages[{i}]") for i, one in enumerate(fields.list("messages"))),
            tools=declared.shown,
            tool_choice=choice,
            allowed_tools=allowed,
            parallel_tool_calls=fields.boolean("parallel_tool_calls", default=True),
            output=output,
            thinking=switched(thinking_asked(fields), self._variant),
            keeps_thinking=keeps_thinking(fields) and self._variant.keeps_thinking,
            answer=answer,
            params=replace(
                sampling_params(fields, "max_completion_tokens", "max_tokens"), logprobs=_logprobs_wanted(fields)
            ),
        )
        encoder = Encoder(
            model,
            bare=not fields.boolean("abruzzi", default=True),
            include_usage=fields.object("stream_options").boolean("include_usage", default=False),
            include_reasoning=fields.boolean("include_reasoning", default=True),
            custom=declared.custom,
        )
        return Call(
            request,
            encoder,
            stream=fields.boolean("stream", default=False),
            answers=fields.integer("n", 1, MAX_ANSWERS) or 1,
            model=fields.string("model") or model,
            ignored=unknown(fields, READ),
            places={
                "output": "tool_format",
                "max_tokens": _limit(body),
                "logprobs": "top_logprobs" if body.get("top_logprobs") else "logprobs",
            },
        )

    @staticmethod
    def read_tools(values: Sequence[Any]) -> Declared:
        return read_tools(values)

    def error(self, error: AbruzziError) -> dict[str, Any]:
        return error_body(error, "messages")


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


def _limit(body: Mapping[str, Any]) -> str:
    """The name under which the body has its limit."""
    return "max_tokens" if body.get("max_completion_tokens") is None else "max_completion_tokens"


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
