"""An OpenAPI description of the paths that the server has: OpenAI's own, cut to them, and Anthropic's by its client."""

from __future__ import annotations

import json
import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

Json = dict[str, Any]
OPENAIS = {
    "/chat/completions": ("post",),
    "/completions": ("post",),
    "/responses": ("post",),
    "/responses/{response_id}": ("get", "delete"),
    "/models": ("get",),
    "/models/{model}": ("get",),
}
OURS = ("/health", "/metrics", "/")
REFUSED = {
    "/v1/chat/completions": ("functions", "function_call", "audio", "moderation", "web_search_options"),
    "/v1/completions": ("suffix", "best_of"),
    "/v1/responses": ("conversation", "prompt", "top_logprobs", "background", "moderation"),
    "/v1/messages": ("container", "mcp_servers"),
}
"""Fields with which a request is refused, whatever else it holds: with them few would come further."""
TYPES = {"text", "input_text", "output_text", "reasoning_text", "summary_text", "json_schema", "json_object"}
TYPES |= {"message", "function_call", "function_call_output", "reasoning", "function", "custom", "allowed_tools"}
TYPES |= {"tool_use", "tool_result", "thinking", "redacted_thinking", "enabled", "adaptive", "disabled"}
TYPES |= {"auto", "any", "none", "tool"}
"""What parts of a request say they are where they are taken; tools are functions, for one."""
ANY: Json = {"responses": {"default": {"description": "Any."}}}


def description(openai: Path, stored: str, *, whole: bool) -> Json:
    """`openai` is OpenAI's description, `openapi.json.xz` of the shared data; `stored` the id of a response. One that
    isn't `whole` lacks what the server refuses.
    """
    with lzma.open(openai, "rt", encoding="utf-8") as file:
        theirs = json.load(file)
    paths = {
        f"/v1{path}": {method: _asked(theirs["paths"][path][method]) for method in methods}
        for path, methods in OPENAIS.items()
    }
    for parameter in paths["/v1/responses/{response_id}"]["get"]["parameters"]:
        if parameter["name"] == "response_id":
            parameter["schema"] = {"enum": [stored, "resp_of_nobody"]}
    paths |= {path: {"get": ANY} for path in OURS}
    paths |= _anthropics()
    schemas = theirs["components"]["schemas"]
    if not whole:
        paths, schemas = _taken(paths, schemas), _taken(schemas, schemas)
        for path, names in REFUSED.items():
            _without(paths[path]["post"]["requestBody"]["content"]["application/json"]["schema"], names, schemas)
    cut = {"openapi": "3.1.0", "info": {"title": "Abruzzi", "version": "1"}, "paths": paths}
    return {**cut, "components": {"schemas": _reached(cut, schemas)}}


def _taken(node: Any, schemas: Json) -> Any:
    """Without the alternatives that say to be of another type."""
    if isinstance(node, list):
        return [_taken(one, schemas) for one in node]
    if not isinstance(node, dict):
        return node
    kept = {key: _taken(value, schemas) for key, value in node.items() if key != "discriminator"}
    for key in ("anyOf", "oneOf"):
        if isinstance(options := kept.get(key), list):
            kept[key] = [one for one in options if _is_taken(one, schemas)] or options
    return kept


def _is_taken(option: Any, schemas: Json) -> bool:
    name = option.get("$ref", "").removeprefix("#/components/schemas/")
    type_ = schemas.get(name, option).get("properties", {}).get("type", {})
    said = {type_["const"]} if "const" in type_ else set(type_.get("enum", ()))
    return not said or bool(said & TYPES)


def _without(schema: Json, names: Sequence[str], schemas: Json) -> None:
    """Takes fields out of a body."""
    name = schema.get("$ref", "").removeprefix("#/components/schemas/")
    schema = schemas.get(name, schema)
    for part in schema.get("allOf", ()):
        _without(part, names, schemas)
    for field in names:
        schema.get("properties", {}).pop(field, None)


def _asked(operation: Json) -> Json:
    """What concerns requests; what is answered is checked elsewhere (tests/server/openapi.py)."""
    return {key: operation[key] for key in ("operationId", "parameters", "requestBody") if key in operation} | ANY


def _anthropics() -> Json:
    """By the types of its client."""
    from anthropic.types import message_count_tokens_params, message_create_params

    bodies = {
        "/v1/messages": message_create_params.MessageCreateParamsNonStreaming,
        "/v1/messages/count_tokens": message_count_tokens_params.MessageCountTokensParams,
    }
    paths = {}
    for path, type_ in bodies.items():
        schema = TypeAdapter(type_).json_schema()
        if path == "/v1/messages":
            schema["properties"]["stream"] = {"type": "boolean"}
        body = {"required": True, "content": {"application/json": {"schema": schema}}}
        paths[path] = {"post": {"requestBody": _inlined(body, path), **ANY}}
    return paths


def _inlined(body: Json, path: str) -> Json:
    """With `#/$defs/X`, which in a description has to be said from its root."""
    root = f"#/paths/{path.replace('~', '~0').replace('/', '~1')}/post/requestBody/content/application~1json/schema"
    return dict(json.loads(json.dumps(body).replace('"#/$defs/', f'"{root}/$defs/')))


def _reached(part: Any, schemas: Json) -> Json:
    """The schemas that a part refers to, and those that these do."""
    found: Json = {}
    todo = [part]
    while todo:
        node = todo.pop()
        if isinstance(node, list):
            todo += node
        elif isinstance(node, dict):
            todo += node.values()
            name = str(node.get("$ref", "")).removeprefix("#/components/schemas/")
            if name in schemas and name not in found:
                found[name] = schemas[name]
                todo.append(schemas[name])
    return found
