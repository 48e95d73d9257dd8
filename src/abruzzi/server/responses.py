"""OpenAI's `POST /v1/responses`, and what is stored of its responses.

Reference: https://platform.openai.com/docs/api-reference/responses. What comes in is read by `responses_input.py` and
`responses_tools.py`, what goes out is written by `responses_output.py`, and `response_store.py` keeps it. Of ours is
the answer's `abruzzi`, which tells what was done to it, beside `usage`: `"abruzzi": false` in a request leaves it out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

from abruzzi.chat import ChatRequest
from abruzzi.protocol.errors import AbruzziError, RequestError
from abruzzi.protocol.kept import made_of
from abruzzi.protocol.messages import Message
from abruzzi.protocol.variants import Variant
from abruzzi.server.chat_completions import answer_schema
from abruzzi.server.chat_output import error_body
from abruzzi.server.dialect import Call, Dialect, Fields
from abruzzi.server.exchange import Exchange
from abruzzi.server.openai_fields import VERBOSITIES, check_unused, metadata_of, refuse_unsupported
from abruzzi.server.response_store import Item, ResponseStore
from abruzzi.server.responses_input import conversation, read_items
from abruzzi.server.responses_output import Encoder
from abruzzi.server.responses_tools import Declared, read_choice, read_tools
from abruzzi.server.sampling import sampling_params
from abruzzi.server.thinking import effort_of, switched

_ENCRYPTED = "reasoning.encrypted_content"
# All but the first tell of hosted tools and of images, of which there are none here.
_INCLUDES = (
    _ENCRYPTED,
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
)
_MAX_LISTED = 100
_UNSUPPORTED: Mapping[str, str] = {
    "conversation": "not supported here: expected previous_response_id, or the whole conversation in input",
    "prompt": "not supported here: no prompts are kept; expected instructions and input",
    "top_logprobs": "not supported here: expected POST /v1/chat/completions where logprobs are wanted",
}


class Responses(Dialect):
    """The dialect of `POST /v1/responses`, in front of a model of this variant, and its store."""

    def __init__(self, variant: Variant, store: ResponseStore | None = None) -> None:
        self._variant = variant
        self.store = ResponseStore() if store is None else store

    def decode(self, body: dict[str, Any], model: str, owner: bytes | None = None) -> Call:
        fields = Fields(body)
        _refuse_unsupported(fields)
        check_unused(fields)
        previous_id = fields.string("previous_response_id")
        previous = None if previous_id is None else self.store.previous(previous_id, owner)
        made: set[str] = set()
        items = read_items(body.get("input"), partial(self.store.item, owner=owner), made)
        messages = conversation(() if previous is None else previous.items(), items)
        # Those of the response that is gone on from don't hold any more.
        if instructions := fields.string("instructions"):
            messages.insert(0, Message("system", instructions))
        if not messages:
            raise RequestError("expected at least one item that says something", "input")
        declared = made_of(fields.list("tools", optional=True), self.read_tools)
        choice, allowed = read_choice(body.get("tool_choice"), declared)
        text = fields.object("text")
        form = text.object("format")
        verbosity = text.one_of("verbosity", *VERBOSITIES)
        request = ChatRequest(
            messages=tuple(messages),
            tools=declared.shown,
            tool_choice=choice,
            allowed_tools=allowed,
            parallel_tool_calls=fields.boolean("parallel_tool_calls", default=True),
            thinking=switched(effort_of(fields.object("reasoning"), "effort"), self._variant),
            answer=_answer(form),
            params=sampling_params(fields, "max_output_tokens"),
        )
        stores = fields.boolean("store", default=True)
        told = {
            **_told(fields),
            "model": model,
            "instructions": instructions,
            "previous_response_id": previous_id,
            "parallel_tool_calls": request.parallel_tool_calls,
            "store": stores,
            "text": {"format": _format_told(form), **({"verbosity": verbosity} if verbosity else {})},
            "tool_choice": body.get("tool_choice") or "auto",
            "tools": declared.told,
        }
        kept = partial(self.store.add, items=items, previous=previous, made=made, owner=owner)
        encoder = Encoder(
            told,
            bare=not fields.boolean("abruzzi", default=True),
            carries=_ENCRYPTED in _include(fields),
            names=declared.names,
            custom=declared.custom,
            keep=kept if stores else lambda _: None,
        )
        stream = fields.boolean("stream", default=False)
        places = {"max_tokens": "max_output_tokens"}
        return Call(request, encoder, stream=stream, model=fields.string("model") or model, places=places)

    @staticmethod
    def read_tools(values: Sequence[Any]) -> Declared:
        return read_tools(values)

    def error(self, error: AbruzziError) -> Mapping[str, Any]:
        return error_body(error, "input")

    # What is stored

    async def stored(self, exchange: Exchange) -> None:
        """GET and DELETE of `/v1/responses/{id}`."""
        id = str(exchange.scope["path"]).removeprefix("/v1/responses/")
        if exchange.scope["method"] == "DELETE":
            self.store.delete(id, exchange.key)
            await exchange.answer_json(200, {"id": id, "object": "response", "deleted": True})
        elif _query(exchange).get("stream", "false") != "false":
            raise RequestError("a stored response can't be streamed", "stream")
        else:
            await exchange.answer(200, self.store.get(id, exchange.key).response)

    async def input_items(self, exchange: Exchange) -> None:
        """GET of `/v1/responses/{id}/input_items`."""
        id = str(exchange.scope["path"]).removeprefix("/v1/responses/").removesuffix("/input_items")
        await exchange.answer_json(200, _listed(self.store.get(id, exchange.key).own_input(), _query(exchange)))


def _query(exchange: Exchange) -> dict[str, str]:
    return dict(parse_qsl(exchange.scope["query_string"].decode("latin-1")))


def _listed(items: list[Item], query: Mapping[str, str]) -> dict[str, Any]:
    """The items of a request, the last one first unless asked for otherwise."""
    limit, order, after = query.get("limit", "20"), query.get("order", "desc"), query.get("after")
    if not re.fullmatch(r"[0-9]{1,9}", limit) or not 1 <= int(limit) <= _MAX_LISTED:
        raise RequestError(f"expected a number between 1 and {_MAX_LISTED}, got {limit[:80]!r}", "limit")
    if order not in ("asc", "desc"):
        raise RequestError(f"expected asc or desc, got {order[:80]!r}", "order")
    if order == "desc":
        items.reverse()
    if after is not None:
        at = next((i for i, item in enumerate(items) if item["id"] == after), None)
        if at is None:
            raise RequestError(f"expected the id of one of the items, got {after[:80]!r}", "after")
        items = items[at + 1 :]
    page = items[: int(limit)]
    ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": "", "last_id": ""}
    return {"object": "list", "data": page, **ends, "has_more": len(items) > len(page)}


def _refuse_unsupported(fields: Fields) -> None:
    """What would give the answer another form and isn't done here is refused, rather than forgotten without a word."""
    if fields.boolean("background", default=False):
        raise RequestError("not supported: a response is made while its client waits", "background")
    refuse_unsupported(fields, _UNSUPPORTED)


def _include(fields: Fields) -> tuple[str, ...]:
    includes = fields.list("include", optional=True)
    for i, one in enumerate(includes):
        if not isinstance(one, str) or one not in _INCLUDES:
            raise RequestError(f"expected one of {', '.join(_INCLUDES)}, got {one!r}", f"include[{i}]")
    return tuple(includes)


def _answer(form: Fields) -> Mapping[str, Any] | None:
    """The schema of the answer that `text.format` asks for."""
    match form.string("type"):
        case None | "text":
            return None
        case "json_object":
            return {"type": "object"}
        case "json_schema":
            if not form.string("name"):
                raise RequestError("expected the form's name, a non-empty string", form.at("name"))
            return answer_schema(form)
    raise RequestError(f"expected text, json_object or json_schema, got {form.value['type']!r}", form.at("type"))


def _format_told(form: Fields) -> dict[str, Any]:
    told = {"type": form.string("type") or "text"}
    if told["type"] != "json_schema":
        return told
    strict = form.boolean("strict", default=False)
    return {**told, **_given(form, "name", "description"), "schema": form.object("schema").value, "strict": strict}


def _given(fields: Fields, *keys: str) -> dict[str, str]:
    """Strings that may be left out, where they aren't."""
    return {key: value for key in keys if (value := fields.string(key))}


def _told(fields: Fields) -> dict[str, Any]:
    """What a response repeats of the request as it stands there, or what was done in its place."""
    fields.one_of("truncation", "auto", "disabled")
    reasoning = fields.object("reasoning")
    return {
        **_given(fields, "user", "safety_identifier", "prompt_cache_key"),
        "background": False,
        "max_output_tokens": fields.integer("max_output_tokens", 1),
        "max_tool_calls": fields.integer("max_tool_calls", 1),
        "metadata": metadata_of(fields),
        "reasoning": {
            "effort": reasoning.string("effort"),
            "summary": reasoning.one_of("summary", "auto", "concise", "detailed"),
        },
        "service_tier": "default",
        "temperature": fields.number("temperature", 0, 2),
        "top_logprobs": 0,
        "top_p": fields.number("top_p", 0, 1),
        "truncation": "disabled",  # what doesn't fit is refused by the engine
    }
