"""Turns of calls as Python writes them, in llguidance's dialect of Lark.

llguidance compiles JSON Schema to JSON only, so the schemas are written out for `'x'`, `True` and `None`; what is
spelled alike in both, numbers and strings in double quotes, is left to llguidance where it has a pattern, a format or
bounds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from abruzzi.guide.lark import REST, fault, quoted, reasoned
from abruzzi.guide.outline import Outline
from abruzzi.guide.rules import SchemaRules, any_of
from abruzzi.guide.schema import arguments_schema
from abruzzi.guide.signature import without_boundaries
from abruzzi.protocol.errors import RequestError
from abruzzi.protocol.messages import Tool
from abruzzi.protocol.pythonic import writable_keyword, writable_name
from abruzzi.protocol.references import alternatives, united

# Strings as `repr` writes them. Control characters stay out, so that a string ends on its line.
LITERALS = r"""
py_string: PY_SINGLE | PY_DOUBLE
PY_SINGLE: /'([^'\\\x00-\x1f\x7f]|\\['"\\nrt])*'/
PY_DOUBLE: /"([^"\\\x00-\x1f\x7f]|\\['"\\nrt])*"/
PY_KEYWORD: /[^\W\d]\w*=/
PY_INTEGER: /-?(0|[1-9][0-9]{0,17})/
PY_NUMBER: /-?(0|[1-9][0-9]{0,17})(\.[0-9]{1,17})?([eE][+-]?[0-9]{1,2})?/
PY_KEY: (PY_SINGLE | PY_DOUBLE) ": "
py_boolean: "True" | "False"
py_value: py_string | PY_NUMBER | py_boolean | "None" | py_list | py_dict
py_list: "[" (py_value (", " py_value)*)? "]"
py_dict: "{" (py_pair (", " py_pair)*)? "}"
py_pair: py_string ": " py_value
"""
_NUMBER = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_LENGTH = ("minLength", "maxLength")


def check(tools: Sequence[Tool]) -> None:
    """Raises RequestError for a name that can't be written as Python does."""
    for t, tool in enumerate(tools):
        if not writable_name(tool.name):
            raise RequestError(f"{tool.name!r} can't be written in the pythonic format", f"tools[{t}].function.name")
        schema = arguments_schema(tool)
        for name in united(schema, schema)["properties"]:
            if not writable_keyword(name):
                where = f"tools[{t}].function.parameters.properties.{name}"
                raise RequestError(f"the parameter {name!r} can't be written in the pythonic format", where)


@lru_cache(maxsize=128)
def spelled(turn: Outline, control_tokens: bool = False) -> str:
    """`[NAME(KEY=VALUE, ...), ...]`, or text that begins otherwise. `control_tokens`: whether `</think>` is one."""
    text = rf"/([^\[<\s]{REST})?/"
    if not turn.signatures:
        return reasoned(turn, text, control_tokens)
    calls, rules = [], []
    for t, one in enumerate(turn.signatures):
        arguments, more = _arguments(one.schema, t)
        calls.append(f'{quoted(f"{one.name}(")} {arguments} ")"')
        rules.append(more)
    start = f'"[" call (", " call){{0,{turn.most - 1}}} "]"' if turn.most > 1 else '"[" call "]"'
    start = reasoned(turn, f"{start} | {text}" if turn.may_answer else start, control_tokens)
    return "\n".join((start, f"call: {' | '.join(calls)}", LITERALS, *rules))


@lru_cache(maxsize=1024)
def _arguments(text: str, t: int) -> tuple[str, str]:
    """The rule of a tool's arguments and the rules that it needs: of the whole schema, or else of the names alone."""
    schema = json.loads(text)
    whole = united(schema, schema)
    names = {
        "properties": {name: {} for name in whole["properties"]},
        "required": whole["required"],
        "additionalProperties": bool(whole["additionalProperties"]),
    }
    for candidate in (without_boundaries(schema), names):
        rules = PythonicRules(f"py_{t}", candidate)
        arguments = rules.arguments()
        if not fault(f"start: {arguments}\n{LITERALS}\n{rules}"):
            return arguments, str(rules)
    raise AssertionError("a grammar of names alone compiles")


class PythonicRules(SchemaRules):
    """The rules of Python literals; they need `LITERALS` beside them."""

    anything = "py_value"
    true_or_false = "py_boolean"
    null = '"None"'

    def arguments(self) -> str:
        """The name of the rule for `a=1, b='x'`."""
        options = alternatives(self._root, self._root) or [{}]
        return self.rule(
            any_of(self.members(one, 0, lambda name: quoted(f"{name}="), self._other_keyword) for one in options)
        )

    def define(self, name: str, body: str) -> str:
        return f"{name}: {body}"

    def literal(self, value: Any) -> str:
        return quoted(_repr(value))

    def key(self, name: str) -> str:
        return quoted(f"{_repr(name)}: ")

    def other_key(self, known: Iterable[str]) -> str:
        return self._but("PY_KEY", map(self.key, known))

    def _other_keyword(self, known: Iterable[str]) -> str:
        return self._but("PY_KEYWORD", (quoted(f"{name}=") for name in known))

    def _but(self, terminal: str, known: Iterable[str]) -> str:
        declared = " | ".join(known)
        if not declared:
            return terminal
        name = f"{self._prefix.upper()}_{len(self._rules)}"
        self._rules.append(f"{name}: {terminal} & ~({declared})")
        return name

    def string(self, schema: Mapping[str, Any]) -> str:
        return self._json("string", schema, ("pattern", "format"), _LENGTH) or _string(schema)

    def number(self, kind: str, schema: Mapping[str, Any]) -> str:
        return self._json(kind, schema, _NUMBER) or ("PY_INTEGER" if kind == "integer" else "PY_NUMBER")

    def _json(self, kind: str, schema: Mapping[str, Any], keywords: Sequence[str], more: Sequence[str] = ()) -> str:
        """What llguidance makes of the keywords, or of all but one where it can't follow that; "" where none is left.
        Those in `more` count only beside others.
        """
        said = [key for key in keywords if key in schema]
        for dropped in (None, *said):
            kept = {key: schema[key] for key in (*said, *more) if key in schema and key != dropped}
            rule = f"%json {json.dumps({'type': kind, **kept})}"
            if kept.keys() & set(said) and not fault(f"start: {rule}"):
                return self.rule(rule)
        return ""


def _string(schema: Mapping[str, Any]) -> str:
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    bounds = [bound for bound in (least, most) if bound is not None]
    if (
        bounds == [0]
        or not all(isinstance(bound, int) and bound <= 1000 for bound in bounds)
        or bounds != sorted(bounds)
    ):
        return "py_string"
    count = f"{{{least},{'' if most is None else most}}}"
    return rf"/'([^'\\\x00-\x1f\x7f]|\\['\"\\nrt]){count}'/"


def _repr(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_repr(key)}: {_repr(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_repr, value)) + "]"
    return repr(value)
