"""Turns as xgrammar's structural tags, version 2 (https://xgrammar.mlc.ai/docs/tutorials/structural_tag.html).

For 0.1.32, TensorRT-LLM's, which knows markers as strings only, and for 0.2, which holds them to control tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from abruzzi.guide.outline import Outline
from abruzzi.guide.xgrammar import followed
from abruzzi.protocol.markers import (
    ARGUMENT_BEGIN,
    CALL_BEGIN,
    CALL_END,
    MARKERS,
    SECTION_BEGIN,
    SECTION_END,
    THINK_BEGIN,
    THINK_END,
)

# xgrammar compiles a schema wherever it stands: for so many tools times calls each id is the one that is due, for more
# each tool stands there once and its ids may be any.
_MAX_EXACT = 128
_CONTROLS = (*MARKERS, THINK_BEGIN, THINK_END)


def spelled(turn: Outline, token_ids: Mapping[str, int] | None = None) -> dict[str, Any]:
    """The turn as `{"type": "structural_tag", "format": ...}`, which is kept and not to be changed.

    `token_ids` are those of the control tokens; where one that the turn needs isn't among them, all are text.
    """
    needed = MARKERS if turn.reasoning == "none" else _CONTROLS
    if token_ids is None or not token_ids.keys() >= set(needed):
        return _spelled(turn, None)
    return _spelled(turn, tuple((marker, token_ids[marker]) for marker in _CONTROLS if marker in token_ids))


@lru_cache(maxsize=64)
def _spelled(turn: Outline, ids: tuple[tuple[str, int], ...] | None) -> dict[str, Any]:
    spelling = _Text() if ids is None else _Tokens(dict(ids))
    elements = []
    if turn.reasoning == "whole":
        elements.append(spelling.marker(THINK_BEGIN))
    if turn.reasoning != "none":
        elements += spelling.up_to(THINK_END)
    section = (
        [spelling.marker(SECTION_BEGIN), _calls(turn, spelling), spelling.marker(SECTION_END)]
        if turn.signatures and turn.tool_format != "pythonic"
        else []
    )
    if turn.answer is not None and turn.may_answer:
        answer = {"type": "json_schema", "json_schema": _schema(turn.answer.schema)}
        elements.append(_either([answer, _sequence(*section)]) if section else answer)
    elif not section:
        elements += spelling.rest()
    elif turn.may_answer:
        elements.append(spelling.text_or(_calls(turn, spelling)))
    else:
        elements += section
    return {"type": "structural_tag", "format": _sequence(*elements)}


class _Text:
    """Markers as strings."""

    def marker(self, marker: str) -> dict[str, Any]:
        return _string(marker)

    def up_to(self, marker: str) -> list[dict[str, Any]]:
        return [{"type": "tag", "begin": "", "content": {"type": "any_text"}, "end": marker}]

    def rest(self) -> list[dict[str, Any]]:
        return [{"type": "any_text"}]

    def text_or(self, calls: dict[str, Any]) -> dict[str, Any]:
        """Text, and then a section of calls or not."""
        return {
            "type": "triggered_tags",
            "triggers": [SECTION_BEGIN],
            "tags": [{"type": "tag", "begin": SECTION_BEGIN, "content": calls, "end": SECTION_END}],
            "at_least_one": False,
            "stop_after_first": True,
            "excludes": [marker for marker in MARKERS if marker != SECTION_BEGIN],
        }

    def optional(self, content: dict[str, Any]) -> dict[str, Any]:
        return {"type": "or", "elements": [_string(""), content]}


class _Tokens(_Text):
    """Markers as control tokens, and no other control tokens in between."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        self._ids = ids

    def marker(self, marker: str) -> dict[str, Any]:
        return {"type": "token", "token": self._ids[marker]}

    def up_to(self, marker: str) -> list[dict[str, Any]]:
        return [*self.rest(), self.marker(marker)]

    def rest(self) -> list[dict[str, Any]]:
        return [{"type": "any_tokens", "exclude_tokens": list(self._ids.values())}]

    def text_or(self, calls: dict[str, Any]) -> dict[str, Any]:
        begin, end = self.marker(SECTION_BEGIN), self.marker(SECTION_END)
        return {
            "type": "token_triggered_tags",
            "trigger_tokens": [begin["token"]],
            "tags": [{"type": "tag", "begin": begin, "content": calls, "end": end}],
            "exclude_tokens": [id for id in self._ids.values() if id != begin["token"]],
            "at_least_one": False,
            "stop_after_first": True,
        }


def _calls(turn: Outline, spelling: _Text) -> dict[str, Any]:
    schemas = [{"type": "json_schema", "json_schema": _schema(one.schema)} for one in turn.signatures]
    if len(schemas) * turn.most > _MAX_EXACT:
        return _calls_of_any_index(turn, spelling, schemas)
    calls: dict[str, Any] | None = None
    for index in reversed(turn.indexes):
        heads = [
            _sequence(_string(f"{one.name}:{index}"), spelling.marker(ARGUMENT_BEGIN), schema)
            for one, schema in zip(turn.signatures, schemas, strict=True)
        ]
        call = (spelling.marker(CALL_BEGIN), _string("functions."), _either(heads), spelling.marker(CALL_END))
        calls = _sequence(*call) if calls is None else _sequence(*call, spelling.optional(calls))
    assert calls is not None
    return calls


def _calls_of_any_index(turn: Outline, spelling: _Text, schemas: list[dict[str, Any]]) -> dict[str, Any]:
    heads = [
        _sequence(
            _string(f"{one.name}:"),
            {"type": "regex", "pattern": "[0-9]{1,6}"},
            spelling.marker(ARGUMENT_BEGIN),
            schema,
        )
        for one, schema in zip(turn.signatures, schemas, strict=True)
    ]
    call = _sequence(spelling.marker(CALL_BEGIN), _string("functions."), _either(heads), spelling.marker(CALL_END))
    if turn.most == 1:
        return call
    tag = {"type": "tag", "begin": "", "content": call, "end": ""}
    return {"type": "tags_with_separator", "tags": [tag], "separator": "", "at_least_one": True}


@lru_cache(maxsize=4096)
def _schema(text: str) -> dict[str, Any]:
    return followed(json.loads(text))


def _string(value: str) -> dict[str, Any]:
    return {"type": "const_string", "value": value}


def _sequence(*elements: dict[str, Any]) -> dict[str, Any]:
    return elements[0] if len(elements) == 1 else {"type": "sequence", "elements": list(elements)}


def _either(elements: list[dict[str, Any]]) -> dict[str, Any]:
    return elements[0] if len(elements) == 1 else {"type": "or", "elements": elements}
