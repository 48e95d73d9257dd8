"""OpenAI's API description, to validate against what is answered. It lies in the shared data, not in this project."""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs

from tests.conftest import SHARED


class OpenApi:
    """Validates values against the schemas by their names; where the file is absent, accepts anything."""

    def __init__(self, path: Path) -> None:
        self._components = None
        if path.exists():
            with lzma.open(path, "rt") as file:
                self._components = _rewritten(json.load(file)["components"])
        self._validator: Callable[[str], jsonschema_rs.Validator] = cache(self._compiled)

    def check(self, name: str, value: Any) -> None:
        """Raises jsonschema_rs.ValidationError."""
        if self._components is not None:
            self._validator(name).validate(value)

    def members(self, name: str) -> set[str]:
        """The names of an object's members."""
        return set() if self._components is None else self._members(self._components["schemas"][name])

    def _members(self, schema: Any) -> set[str]:
        if "$ref" in schema:
            return self.members(schema["$ref"].rpartition("/")[2])
        return set(schema.get("properties", ())).union(*map(self._members, schema.get("allOf", ())))

    def _compiled(self, name: str) -> jsonschema_rs.Validator:
        schema = {"$ref": f"#/components/schemas/{name}", "components": self._components}
        return jsonschema_rs.Draft202012Validator(schema)


def _rewritten(node: Any) -> Any:
    """`nullable` is of OpenAPI 3.0, and means nothing to JSON Schema."""
    if isinstance(node, list):
        return [_rewritten(one) for one in node]
    if not isinstance(node, dict):
        return node
    rest = {key: _rewritten(one) for key, one in node.items() if key != "nullable"}
    return {"anyOf": [rest, {"type": "null"}]} if node.get("nullable") is True else rest


@cache
def openais() -> OpenApi:
    """The one in the shared data."""
    return OpenApi(SHARED / "openai" / "openapi.json.xz")
