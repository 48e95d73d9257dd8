"""An OpenAPI description of the paths that the server has: OpenAI's own, cut to them, and Anthropic's by its client."""

from __future__ import annotations

import json
import lzma
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
ANY: Json = {"responses": {"default": {"description": "Any."}}}


def description(openai: Path, stored: str) -> Json:
    """`openai` is OpenAI's description, `openapi.json.xz` of the shared data; `stored` the id of a response."""
    with lzma.open(openai, "rt", encoding="utf-8") as file:
        whole = json.load(file)
    paths = {
        f"/v1{path}": {method: _asked(whole["paths"][path][method]) for method in methods}
        for path, methods in OPENAIS.items()
    }
    for parameter in paths["/v1/responses/{response_id}"]["get"]["parameters"]:
        if parameter["name"] == "response_id":
            parameter["schema"] = {"enum": [stored, "resp_of_nobody"]}
    paths |= {path: {"get": ANY} for path in OURS}
    cut = {"openapi": "3.1.0", "info": {"title": "Abruzzi", "version": "1"}, "paths": paths | _anthropics()}
    return {**cut, "components": {"schemas": _reached(cut, whole["components"]["schemas"])}}


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
