"""What a turn may be, as a grammar for llguidance (its Lark dialect: https://github.com/microsoft/llguidance/blob/main/docs/syntax.md)."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from llguidance import LLMatcher

from abruzzi.guide.pythonic import PythonicRules
from abruzzi.guide.schema import arguments_schema, closed
from abruzzi.protocol.messages import Tool
from abruzzi.protocol.variants import ARGUMENT_BEGIN, CALL_BEGIN, CALL_END, SECTION_BEGIN, SECTION_END

ToolChoice = Literal["auto", "required", "none"] | str
ToolFormat = Literal["k2", "pythonic"]

# Calls that one turn may hold when several are allowed. Each costs the grammar a rule a tool.
_MAX_PARALLEL = 8
# As Python's and K2's own JSON: one blank behind a comma or colon, none elsewhere. A grammar that lets a model choose
# its white space lets it write white space for ever (failure 55).
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


@dataclass(frozen=True, slots=True)
class Grammar:
    """The outputs that a turn may have."""

    lark: str
    loose: frozenset[str]
    """Names of the tools whose schema the grammar only approximates: more is let through here than the schema allows.
    """

    @classmethod
    def for_turn(
        cls,
        tools: Sequence[Tool],
        *,
        tool_choice: ToolChoice = "auto",
        parallel_tool_calls: bool = True,
        first_index: int = 0,
        tool_format: ToolFormat = "k2",
    ) -> Grammar:
        """The grammar of one turn.

        `tool_choice` is `auto`, `required`, `none` or a tool's name; `first_index` is the N of the turn's first
        `functions.NAME:N`. Text holds no `<|`, so that no marker can be spelled in it.
        """
        if tool_choice not in ("auto", "required", "none"):
            tools = [tool for tool in tools if tool.name == tool_choice]
        if tool_choice == "none" or not tools:
            return cls(r"start: /(([^<]|<+[^<|])*<*)/", frozenset())
        count = _MAX_PARALLEL if parallel_tool_calls else 1
        build = _pythonic if tool_format == "pythonic" else _k2
        return build(tools, count, first_index, may_answer=tool_choice == "auto")


def _k2(tools: Sequence[Tool], count: int, first_index: int, *, may_answer: bool) -> Grammar:
    """[text] section_begin (call_begin functions.NAME:N argument_begin JSON call_end)+ section_end, or text alone."""
    rules = ["start: calls"]
    if may_answer:
        # The two begin alike; the lexer keeps both alive until a marker or the end tells.
        lead = re.escape(SECTION_BEGIN)
        rules = [
            "start: TEXT | LEAD call_0 section_end",
            r"TEXT: /([^<]|<+[^<|])*<*/",
            rf"LEAD: /([^<]|<+[^<|])*{lead}/",
        ]
    rules += [f"calls: {_quoted(SECTION_BEGIN)} call_0 section_end", f"section_end: {_quoted(SECTION_END)}"]
    for i in range(count):
        heads = " | ".join(
            f"{_quoted(f'{tool.name}:{first_index + i}{ARGUMENT_BEGIN}')} args_{t}" for t, tool in enumerate(tools)
        )
        more = f" call_{i + 1}?" if i + 1 < count else ""
        rules.append(f"call_{i}: {_quoted(CALL_BEGIN + 'functions.')} ({heads}) {_quoted(CALL_END)}{more}")
    loose = set()
    for t, tool in enumerate(tools):
        schema, exact = _compilable(json.dumps(closed(arguments_schema(tool))))
        rules.append(f"args_{t}: %json {schema}")
        if not exact:
            loose.add(tool.name)
    return Grammar("\n".join(rules), frozenset(loose))


def _pythonic(tools: Sequence[Tool], count: int, first_index: int, *, may_answer: bool) -> Grammar:
    """`[NAME(KEY=VALUE, ...), ...]`, or text that begins otherwise."""
    rules = PythonicRules()
    calls = [f'{_quoted(tool.name + "(")} {rules.arguments(arguments_schema(tool))} ")"' for tool in tools]
    start = f'start: "[" call (", " call){{0,{count - 1}}} "]"'
    if may_answer:
        start += r" | /([^\[<\s]([^<]|<+[^<|])*<*)?/"
    # No pythonic rule is trusted to be exact: PythonicRules says which schemas it loosens only by loosening them.
    return Grammar(f"{start}\ncall: {' | '.join(calls)}\n{rules}", frozenset(tool.name for tool in tools))


@lru_cache(maxsize=4096)
def _compilable(schema: str) -> tuple[str, bool]:
    """The nearest schema that llguidance compiles, with our spacing, and whether it says the same as the given one."""
    spaced: dict[str, Any] = {"x-guidance": _SPACING, **json.loads(schema), "type": "object"}
    for candidate, exact in (
        (spaced, True),
        ({**spaced, "x-guidance": {**_SPACING, "lenient": True}}, False),
        ({"x-guidance": _SPACING, "type": "object"}, False),
    ):
        text = json.dumps(candidate, ensure_ascii=False)
        if not LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(f"start: %json {text}")):
            return text, exact
    raise AssertionError("llguidance refuses the schema of any object")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
