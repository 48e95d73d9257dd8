"""K2's turns in llguidance's dialect of Lark (https://github.com/microsoft/llguidance/blob/main/docs/syntax.md)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

from llguidance import LLMatcher, LLTokenizer

from abruzzi.guide.outline import Outline
from abruzzi.protocol.markers import (
    ARGUMENT_BEGIN,
    CALL_BEGIN,
    CALL_END,
    SECTION_BEGIN,
    SECTION_END,
    THINK_BEGIN,
    THINK_END,
)

# llguidance holds 65,525 symbols in one grammar. The smallest that had more was of twice as many characters as this.
_SAFE = 1_000_000
# It also follows no more than 2,000 rules at once.
_MAX_ALTERNATIVES = 500
_ANY_ARGUMENTS = '{"type": "object"}'
REST = "([^<]|<+[^<|])*<*"  # what follows a text's first character: no `<|`
_ANY = "/(?s:.*)/"


def quoted(text: str) -> str:
    """The text as a literal of the grammar."""
    return json.dumps(text, ensure_ascii=False)


@lru_cache(maxsize=1024)
def fault(grammar: str) -> str:
    """What llguidance has against the grammar, or nothing."""
    return LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(grammar))


@lru_cache(maxsize=64)
def spelled(turn: Outline) -> str:
    """The turn for a vocabulary that spells the markers out.

    Text begins with no `<` and holds no `<|`, so that no marker can be spelled in it, nor one that is meant.
    """
    text = f"/([^<]{REST})?/"
    if not turn.signatures:
        return _answered(turn, reasoned(turn, text if turn.answer is None else "answer"))
    if not turn.may_answer:
        return _fitting(turn, reasoned(turn, "calls"), quoted)
    if turn.answer is not None:
        return _answered(turn, _fitting(turn, reasoned(turn, "answer | calls"), quoted))
    # The two begin alike; the lexer keeps both alive until a marker or the end tells.
    lead = rf"LEAD: /([^<]([^<]|<+[^<|])*)?{re.escape(SECTION_BEGIN)}/"
    start = reasoned(turn, "TEXT | LEAD call_0 section_end")
    return _fitting(turn, f"{start}\nTEXT: {text}\n{lead}", quoted)


@lru_cache(maxsize=64)
def with_control_tokens(turn: Outline) -> str:
    """The turn for a vocabulary that has the markers as control tokens: text is of all others, whatever it spells."""
    text = _ANY if turn.answer is None else "answer"
    if not turn.signatures:
        return _answered(turn, reasoned(turn, text, control_tokens=True))
    if not turn.may_answer:
        return _fitting(turn, reasoned(turn, "calls", control_tokens=True), str)
    body = f"{_ANY} calls?" if turn.answer is None else "answer | calls"
    return _answered(turn, _fitting(turn, reasoned(turn, body, control_tokens=True), str))


def _answered(turn: Outline, grammar: str) -> str:
    return grammar if turn.answer is None else f"{grammar}\nanswer: %json {turn.answer.followed}"


def reasoned(turn: Outline, body: str, control_tokens: bool = False) -> str:
    """The first rule of a turn, with the reasoning before its body; `control_tokens`: whether `</think>` is one."""
    if turn.reasoning == "none":
        return f"start: {body}"
    begin = turn.reasoning == "whole"
    if control_tokens:
        return f"start: {f'{THINK_BEGIN} ' if begin else ''}{_ANY} {THINK_END} ({body})"
    # Lazy: the first `</think>` ends it.
    end = THINK_END.replace("/", r"\/")
    return f"start: {f'{quoted(THINK_BEGIN)} ' if begin else ''}think ({body})\nthink[lazy]: /(?s:.*){end}/"


def _fitting(turn: Outline, start: str, marker: Callable[[str], str]) -> str:
    """The grammar; where there are more tools than llguidance can hold, one that leaves the ids open, and then the
    arguments of more and more of those with the largest schemas.
    """
    grammar = _grammar(turn, start, marker, turn.indexes)
    if len(grammar) < _SAFE or not _fails(grammar):
        return grammar
    by_size = sorted(turn.signatures, key=lambda one: len(one.followed), reverse=True)
    for eighth in range(8):
        loosened = frozenset(by_size[: len(by_size) * eighth // 8])
        known = tuple(replace(one, followed=_ANY_ARGUMENTS) if one in loosened else one for one in turn.signatures)
        grammar = _grammar(replace(turn, signatures=known), start, marker, None)
        if not _fails(grammar):
            break
    return grammar


def _fails(grammar: str) -> bool:
    # What is too large only shows when it is compiled for a vocabulary.
    return bool(LLMatcher(LLTokenizer("byte"), LLMatcher.grammar_from_lark(grammar)).is_error())


def _grammar(turn: Outline, start: str, marker: Callable[[str], str], indexes: range | None) -> str:
    """section_begin (call_begin functions.NAME:N argument_begin JSON call_end)+ section_end; N is any without
    `indexes`.
    """
    schemas = list(dict.fromkeys(one.followed for one in turn.signatures))
    rule = {schema: f"args_{i}" for i, schema in enumerate(schemas)}
    rules = [start, f"calls: {marker(SECTION_BEGIN)} call_0 section_end", f"section_end: {marker(SECTION_END)}"]
    for i, index in enumerate(indexes or (None,)):
        colon = ":" if index is None else f":{index}"
        rest = "INDEX " * (index is None) + marker(ARGUMENT_BEGIN)
        heads = _any([(one.name + colon, f"{rest} {rule[one.followed]}") for one in turn.signatures])
        more = f" call_{i + 1}?" if i + 1 < len(indexes or ()) else "" if indexes or turn.most == 1 else " call_0?"
        rules.append(f'call_{i}: {marker(CALL_BEGIN)} "functions." ({heads}) {marker(CALL_END)}{more}')
    if indexes is None:
        rules.append("INDEX: /[0-9]{1,6}/")
    return "\n".join((*rules, *(f"{name}: %json {schema}" for schema, name in rule.items())))


def _any(sequences: Sequence[tuple[str, str]]) -> str:
    """Any of these literals with what follows it; of very many the first characters are told apart first."""
    if len(sequences) <= _MAX_ALTERNATIVES:
        return " | ".join(f"{quoted(text)} {rest}" for text, rest in sequences)
    groups: dict[str, list[tuple[str, str]]] = {}
    for text, rest in sequences:
        groups.setdefault(text[0], []).append((text[1:], rest))
    return " | ".join(f"{quoted(first)} ({_any(group)})" for first, group in groups.items())
