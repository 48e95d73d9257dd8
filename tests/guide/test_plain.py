"""What is plain can be made ready when its tool is called: nothing of it has to be looked at before."""

from __future__ import annotations

import json
import lzma
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abruzzi.guide import schema as schemas
from abruzzi.guide.examples import examples
from abruzzi.guide.node import Schema
from abruzzi.guide.plain import is_plain
from abruzzi.guide.schema import Arguments, compile

_FEW = st.integers(0, 3)
_KINDS = st.sampled_from(["string", "number", "integer", "boolean", "null", "array", "object"])


def _schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {},
        optional={
            "type": _KINDS | st.lists(_KINDS, max_size=2),
            "enum": st.lists(st.sampled_from(["a", "bb", None]), max_size=2),
            "anyOf": st.lists(inner, max_size=2),
            "properties": st.dictionaries(st.sampled_from("xy"), inner, max_size=2),
            "required": st.lists(st.sampled_from("xyz"), max_size=2),
            "additionalProperties": st.booleans() | inner,
            "items": inner,
            "minItems": _FEW,
            "maxItems": _FEW,
            "minLength": _FEW,
            "maxLength": _FEW,
            "format": st.sampled_from(["date", "x"]),
            "minimum": _FEW,
            "maximum": _FEW | st.just(1.5),
            "exclusiveMinimum": _FEW,
            "exclusiveMaximum": _FEW,
            "default": st.none(),
        },
    )


_SCHEMAS: st.SearchStrategy[dict[str, Any]] = st.recursive(st.builds(dict), _schemas, max_leaves=8)


def _is_plain(schema: Any) -> bool:
    return is_plain(json.dumps(schema).encode())


@given(_SCHEMAS)
def test_what_is_plain_is_satisfied_by_something(schema: dict[str, Any]) -> None:
    if _is_plain(schema):
        arguments = Arguments(json.dumps(schema).encode())
        assert arguments.schema.arguments.options  # and neither raises


@given(_SCHEMAS)
def test_each_kind_of_a_plain_part_has_a_value(schema: dict[str, Any]) -> None:
    """So that whatever requires the part can be satisfied."""
    whole = {"properties": {"part": schema}, "required": ["part"]}
    if _is_plain(whole):
        arguments = compile(whole)
        text = json.dumps(next(iter(examples(arguments.schema.arguments))))
        assert arguments.fault(text) is None


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string"},
        {"enum": ["a"]},
        {"anyOf": [{"type": "string"}]},
        {"properties": {"x": {"enum": []}}},
        {"properties": {"x": {"type": "integer", "enum": ["a"]}}},
        {"properties": {"x": {"enum": ["a"], "minLength": 2}}},
        {"properties": {"x": {"anyOf": []}}},
        {"properties": {"x": {"anyOf": [{"type": "string"}], "type": "number"}}},
        {"properties": {"x": {"type": []}}},
        {"properties": {"x": {"type": ["string", "string"]}}},
        {"properties": {"x": {"type": "text"}}},
        {"properties": {"x": {"minLength": 3, "maxLength": 2}}},
        {"properties": {"x": {"minLength": -1}}},
        {"properties": {"x": {"minItems": 10**9}}},
        {"properties": {"x": {"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 2}}},
        {"properties": {"x": {"minimum": 2, "maximum": 1}}},
        {"properties": {"x": {"minimum": 1e300}}},
        {"properties": {"x": {"pattern": "("}}},
        {"properties": {"x": {"description": None}}},
        {"properties": {"x": {"$schema": "http://json-schema.org/draft-07/schema#"}}},
        {"properties": {}, "required": ["x"], "additionalProperties": False},
        {"properties": {"x": {}}, "required": ["x", "x"]},
        {"properties": {"x": {"$ref": "#/nowhere"}}},
        {"$schema": "http://json-schema.org/draft-04/schema#", "type": "object"},
        {"type": "object", "not": {}},
        {"type": "object", "description": "x" * 70_000},
        [],
    ],
)
def test_what_may_be_wrong_is_not_plain(schema: Any) -> None:
    assert not _is_plain(schema)


def test_what_is_too_deep_to_be_made_ready_is_not_plain() -> None:
    deep: dict[str, Any] = {}
    for _ in range(19):
        deep = {"type": "object", "properties": {"x": deep}}
    assert _is_plain(deep)
    assert not _is_plain({"type": "object", "properties": {"x": deep}})


def test_nearly_all_real_tools_are_plain_and_can_be_made_ready(shared: Path) -> None:
    plain = count = 0
    for name in ("mcp_tools", "maskbench"):
        with lzma.open(shared / "schemas" / f"{name}.jsonl.xz", "rt") as file:
            for line in islice(map(json.loads, file), 3_000):
                schema = line["tool"]["function"].get("parameters") if name == "mcp_tools" else line["schema"]
                count += name == "mcp_tools"
                if isinstance(schema, dict) and _is_plain(schema):
                    Arguments(json.dumps(schema).encode()).ready()
                    plain += name == "mcp_tools"
    assert plain > 0.9 * count


def test_a_plain_schema_waits_until_its_tool_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(schemas, "Schema", lambda schema: made.append(schema) or Schema(schema))  # type: ignore[func-returns-value]
    schemas._compiled.cache_clear()
    arguments = compile({"type": "object", "properties": {"x": {"type": "integer"}}})
    assert not made
    assert arguments.fault('{"x": "a"}') is not None and arguments.fault('{"x": 1}') is None
    assert len(made) == 1
    compile({"type": "object", "properties": {"x": {"type": "string", "pattern": "a"}}})
    assert len(made) == 2
