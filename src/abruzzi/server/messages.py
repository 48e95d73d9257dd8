"""Anthropic's `POST /v1/messages`: its body decoded to a `ChatRequest`.

Reference: https://docs.anthropic.com/en/api/messages. What came before is read in `message_blocks.py`, the answer is
written in `message_events.py`. Ours is the answer's `abruzzi`, which tells what was done to it, beside `usage`:
`"abruzzi": false` in a request leaves it out.

Read and not acted upon: `thinking.budget_tokens`, `thinking.display`, `output_config.effort`, `metadata`,
`service_tier`, `citations`, `cache_control`, and whatever isn't named here, such as what comes with a beta; no header
is asked for. A tool's `strict` changes nothing, since every call is held to its schema: OpenAI's rules for strict
schemas aren't Anthropic's, and aren't asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

from abruzzi.chat import ChatRequest
from abruzzi.engines.base import SamplingParams
from abruzzi.guide.schema import Schemas
from abruzzi.protocol.errors import AbruzziError, RequestError
from abruzzi.protocol.kept import made_of
from abruzzi.protocol.messages import Message, Tool, Tools
from abruzzi.protocol.variants import K2, Variant
from abruzzi.server.chat_completions import answer_schema
from abruzzi.server.dialect import Call, Dialect, Fields, event
from abruzzi.server.message_blocks import conversation, system_text
from abruzzi.server.message_events import Encoder, error_body
from abruzzi.server.sampling import MAX_TOKENS, top_k_of
from abruzzi.server.thinking import switched

_CHOICES: Mapping[str, str] = {"auto": "auto", "any": "required", "none": "none"}
_UNSUPPORTED = {
    "container": "not supported here: no code runs here",
    "mcp_servers": "not supported here: expected their tools in tools, and their calls made by the client",
}
_THINKING = ("enabled", "adaptive", "between_tools", "disabled")


class NoThread(RequestError):
    """The client wants its conversation kept. By the `details` it knows that it has to send all of it each time, which
    Anthropic's own then do by themselves; they begin their loops of tools with it.
    """

    details: Mapping[str, Any] = {"error_code": "thread_unsupported_request"}


class Messages(Dialect):
    """The dialect of `POST /v1/messages`, in front of a model of this variant."""

    keep_alive = event("ping", {"type": "ping"})

    def __init__(self, variant: Variant = K2) -> None:
        self._variant = variant

    def decode(self, body: dict[str, Any], model: str, owner: bytes | None = None) -> Call:
        fields = Fields(body)
        if body.get("max_tokens") is None:
            raise RequestError("expected an integer, the most tokens that the answer may have", "max_tokens")
        return Call(
            request_of(fields, self._variant),
            Encoder(model, bare=not fields.boolean("abruzzi", default=True)),
            stream=fields.boolean("stream", default=False),
            model=fields.string("model") or model,
            places={"begun": _last(fields), "stop": "stop_sequences"},
        )

    @staticmethod
    def read_tools(values: Sequence[Any]) -> tuple[Tools, Set[str]]:
        """The tools, and the names of those that are deferred."""
        tools = Tools(_tool(one, f"tools[{i}]") for i, one in enumerate(values))
        defers = (Fields(one, f"tools[{i}]").boolean("defer_loading", default=False) for i, one in enumerate(values))
        return tools, frozenset(tool.name for tool, is_deferred in zip(tools, defers, strict=True) if is_deferred)

    def error(self, error: AbruzziError) -> dict[str, Any]:
        return error_body(error)


def request_of(fields: Fields, variant: Variant, *, answers: bool = True) -> ChatRequest:
    """What a body asks for; `answers`: whether the model is to answer it. Raises RequestError, with the path."""
    if fields.value.get("thread") is not None:
        raise NoThread("expected the whole conversation in messages: none is kept here", "thread")
    _check_unused(fields)
    talk = conversation(fields, answers=answers)
    tools = _tools(fields, talk.loaded)
    choice, parallel = _tool_choice(fields, {tool.name for tool in tools})
    system = system_text(fields)
    answer = _answer(_form(fields))
    if talk.begun is not None and answers:
        _check_free(fields, choice, answer)
    return ChatRequest(
        messages=(*([Message("system", system)] if system else []), *talk.messages),
        tools=tools,
        tool_choice=choice,
        parallel_tool_calls=parallel,
        thinking=switched(_thinking(fields), variant),
        answer=answer,
        begun=talk.begun if choice in ("auto", "none") and answer is None else None,
        params=SamplingParams(
            max_tokens=fields.integer("max_tokens", 1, MAX_TOKENS),
            temperature=fields.number("temperature", 0, 1),
            top_p=fields.number("top_p", 0, 1),
            stop=_stops(fields),
            top_k=top_k_of(fields, 0),
        ),
    )


def _check_unused(fields: Fields) -> None:
    """Raises RequestError for what can't be honoured, and for what is no such field though it changes nothing here."""
    for key, reason in _UNSUPPORTED.items():
        if fields.value.get(key):
            raise RequestError(reason, key)
    fields.object("metadata").string("user_id")
    fields.string("service_tier")
    fields.string("inference_geo")
    fields.string("speed")


def _check_free(fields: Fields, choice: str, answer: Mapping[str, Any] | None) -> None:
    """Raises RequestError where an answer can't begin with a text of the client's, as Anthropic's API does."""
    where = _last(fields)
    if choice not in ("auto", "none"):
        raise RequestError("expected a message of the user at the end where tool_choice wants a call", where)
    if answer is not None:
        raise RequestError("expected a message of the user at the end where an answer's format is asked for", where)
    if fields.object("thinking").string("type") == "enabled":
        raise RequestError("expected a message of the user at the end where thinking is enabled", where)


def _last(fields: Fields) -> str:
    """The path of the last message."""
    return f"messages[{len(fields.list('messages')) - 1}]"


def _tools(fields: Fields, loaded: Set[str]) -> tuple[Tool, ...]:
    """The tools that the model is shown: of those that are deferred, the ones that a search has found."""
    tools, deferred = made_of(fields.list("tools", optional=True), Messages.read_tools)
    if deferred <= loaded:
        return tools
    Schemas(tools)  # while a fault's path is still the client's
    return tuple(tool for tool in tools if tool.name in loaded or tool.name not in deferred)


def _tool(value: Any, where: str) -> Tool:
    if not isinstance(value, dict):
        raise RequestError("expected a tool, an object", where)
    fields = Fields(value, where)
    kind = fields.string("type")
    if kind not in (None, "custom"):
        raise RequestError(
            f"expected custom, got {kind!r}: Anthropic's own tools aren't to be had here", f"{where}.type"
        )
    fields.boolean("strict", default=False)
    if not isinstance(value.get("input_schema"), dict):
        raise RequestError("expected a JSON Schema, an object", fields.at("input_schema"))
    function = {"name": value.get("name"), "description": value.get("description"), "parameters": value["input_schema"]}
    return Tool.from_openai({"type": "function", "function": function}, where)


def _tool_choice(fields: Fields, names: set[str]) -> tuple[str, bool]:
    """The choice as `ChatRequest` has it, and whether several calls may come."""
    choice = fields.object("tool_choice")
    if fields.value.get("tool_choice") is None:
        return "auto", True
    kind, parallel = choice.string("type"), not choice.boolean("disable_parallel_tool_use", default=False)
    if kind == "tool":
        name = choice.string("name")
        if name not in names:
            raise RequestError(f"expected the name of a declared tool, got {name!r}", choice.at("name"))
        if name in ("auto", "none", "required"):
            raise RequestError(f"a tool called {name!r} can't be chosen by name", choice.at("name"))
        return name, parallel
    if kind is None or kind not in _CHOICES:
        raise RequestError(f"expected auto, any, tool or none, got {kind!r}", choice.at("type"))
    if kind == "any" and not names:
        raise RequestError("any needs tools to choose from, none are declared", choice.at("type"))
    return _CHOICES[kind], parallel


def _thinking(fields: Fields) -> bool | None:
    """Whether the model is to think. Where it is asked to, it does if it can."""
    thinking = fields.object("thinking")
    if fields.value.get("thinking") is None:
        return None
    kind = thinking.string("type")
    if kind not in _THINKING:
        raise RequestError(f"expected one of {', '.join(_THINKING)}, got {kind!r}", thinking.at("type"))
    thinking.integer("budget_tokens", 1)
    return False if kind == "disabled" else None


def _form(fields: Fields) -> Fields:
    """The form of answer that is asked for, in the place that it has now or had in Anthropic's beta, where LiteLLM puts
    it. Raises RequestError where it is in both.
    """
    form, early = fields.object("output_config").object("format"), fields.object("output_format")
    if form.value and early.value:
        raise RequestError(f"expected no other format beside {form.where}", early.where)
    return form if form.value else early


def _answer(form: Fields) -> Mapping[str, Any] | None:
    """The schema of the answer that is asked for. Raises RequestError where it is none of an object."""
    if not form.value:
        return None
    if form.string("type") != "json_schema":
        raise RequestError(f"expected json_schema, got {form.value.get('type')!r}", form.at("type"))
    return answer_schema(form)


def _stops(fields: Fields) -> tuple[str, ...]:
    stops: Sequence[Any] = fields.list("stop_sequences", optional=True)
    for i, stop in enumerate(stops):
        if not isinstance(stop, str) or not stop:
            raise RequestError("expected a string that isn't empty", f"stop_sequences[{i}]")
    return tuple(stops)
