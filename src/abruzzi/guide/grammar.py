"""What a turn may be, and how the engines are told: one description, a spelling for each language that they take.

Grammar ── lark                 llguidance, markers spelled out (the embedded model's vocabulary, or any)
        ├─ lark_tokens          llguidance, markers as control tokens (vLLM with K2's vocabulary)
        ├─ structural_tag()     xgrammar (TensorRT-LLM, SGLang, vLLM)
        └─ gbnf                 llama.cpp
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from abruzzi.guide import gbnf, lark, pythonic, structural_tag
from abruzzi.guide.outline import Outline
from abruzzi.guide.signature import signatures
from abruzzi.protocol.errors import RequestError
from abruzzi.protocol.messages import Tool
from abruzzi.protocol.variants import Variant, variant_named

ToolChoice = Literal["auto", "required", "none"] | str
ToolFormat = Literal["k2", "pythonic"]

# Calls that one turn may hold when several are allowed. Each costs the grammar a rule a tool.
_MAX_PARALLEL = 8


@dataclass(frozen=True, slots=True)
class Grammar(Outline):
    """The outputs that a turn may have. Whatever a language can't say is looser in it, never stricter."""

    written: str = ""
    """What of the turn stands in the prompt already. An engine that can't begin behind it takes no grammar then."""

    @classmethod
    def for_turn(
        cls,
        tools: Sequence[Tool],
        *,
        tool_choice: ToolChoice = "auto",
        parallel_tool_calls: bool = True,
        first_index: int = 0,
        variant: str | Variant = "k2",
        tool_format: ToolFormat = "k2",
        thinking: bool | None = None,
        answer: Mapping[str, Any] | None = None,
    ) -> Grammar:
        """The grammar of one turn.

        `tool_choice` is `auto`, `required`, `none` or a tool's name; `first_index` is the N of the turn's first
        `functions.NAME:N`. A variant that thinks does so first, unconstrained, unless `thinking` is False and its
        prompt has answered for it. `answer` is the JSON Schema of the object that the text has to be. Raises
        RequestError for a tool whose schema nothing can satisfy.
        """
        row = variant_named(variant) if isinstance(variant, str) else variant
        if tool_choice not in ("auto", "required", "none"):
            chosen = [tool for tool in tools if tool.name == tool_choice]
            if not chosen:
                raise RequestError(
                    f"expected auto, none, required or a tool's name, got {tool_choice!r}", "tool_choice"
                )
            tools = chosen
        known = () if tool_choice == "none" else signatures(tools)
        if tool_format == "pythonic" and known:
            pythonic.check(tools)
        return cls(
            known,
            may_answer=tool_choice == "auto" or not known,
            most=_MAX_PARALLEL if parallel_tool_calls else 1,
            first_index=first_index,
            tool_format=tool_format,
            reasoning=_reasoning(row, thinking),
            answer=None if answer is None else signatures([Tool("answer", None, answer)])[0],
        )

    def behind(self, text: str) -> Grammar:
        """The same turn, of which so much is there."""
        return replace(self, written=text)

    @property
    def loose(self) -> frozenset[str]:
        """Names of the tools whose schema llguidance only approximates: more is let through here than the schema
        allows.
        """
        # What the Python literals' rules can't say they loosen without a word, so no tool is taken to be exact.
        return frozenset(one.name for one in self.signatures if not one.exact or self.tool_format == "pythonic")

    @property
    def lark(self) -> str:
        """For llguidance and a vocabulary that spells the markers out: the embedded model's, or single bytes."""
        return pythonic.spelled(self) if self.tool_format == "pythonic" else lark.spelled(self)

    @property
    def lark_tokens(self) -> str:
        """For llguidance and a vocabulary in which the markers are control tokens: K2's own."""
        if self.tool_format == "pythonic":
            return pythonic.spelled(self, control_tokens=True)
        return lark.with_control_tokens(self)

    @property
    def gbnf(self) -> str:
        """For llama.cpp."""
        return gbnf.spelled(self)

    def structural_tag(self, token_ids: Mapping[str, int] | None = None) -> dict[str, Any]:
        """For xgrammar, as TensorRT-LLM's `response_format` has it.

        `token_ids`: the control tokens of the engine's vocabulary, which xgrammar 0.2 then holds the markers to. Older
        ones know no tokens: to them the markers are text. What is returned is kept and not to be changed.
        """
        return structural_tag.spelled(self, token_ids)


def _reasoning(variant: Variant, thinking: bool | None) -> Literal["none", "begun", "whole"]:
    if not variant.thinks or (variant.opens_thinking and thinking is False):
        return "none"
    return "begun" if variant.opens_thinking else "whole"
