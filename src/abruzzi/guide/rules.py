"""A JSON Schema as grammar rules, where an engine's language knows no schemas.

The part of JSON Schema that tools use is written out; whatever is beyond it becomes the nearest looser rule, and the
finished call is validated in any case. Stricter than the schema are only the order of the properties, which is the
schema's, and that an object that lists its properties takes no others unless it says so.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jsonschema_rs

from abruzzi.protocol.references import alternatives

_MAX_DEPTH = 24
# A schema that refers to itself in ever new ways ends here.
_MAX_VALUES = 4000
# Unrolling a bounded repetition costs grammar size; past this a bound is left to the validator.
_MAX_COUNT = 64
# Counting an object's members costs a rule a member for each that is counted.
_MAX_LEAST = 8


class SchemaRules(ABC):
    """Collects the rules of one tool, whose schema is `root`; their names begin with `prefix`.

    What is common to the languages (alternatives, repetition, quoting) is here; a language says how rules are named and
    defined, and how its scalars are written.
    """

    anything: str
    """The rule of any value."""
    true_or_false: str
    null: str
    dash = "_"
    """What joins the words of a rule's name."""

    def __init__(self, prefix: str, root: Mapping[str, Any]) -> None:
        self._prefix = prefix
        self._root = root
        self._rules: list[str] = []
        self._values: dict[str, str] = {}

    def __str__(self) -> str:
        return "\n".join(self._rules)

    @abstractmethod
    def define(self, name: str, body: str) -> str:
        """The rule, as a line."""

    @abstractmethod
    def literal(self, value: Any) -> str:
        """A constant."""

    @abstractmethod
    def key(self, name: str) -> str:
        """What stands before the member of this name."""

    @abstractmethod
    def other_key(self, known: Iterable[str]) -> str:
        """What stands before a member of any other name."""

    @abstractmethod
    def string(self, schema: Mapping[str, Any]) -> str: ...

    @abstractmethod
    def number(self, kind: str, schema: Mapping[str, Any]) -> str:
        """`kind` is `integer` or `number`."""

    def rule(self, body: str) -> str:
        """The name of a new rule."""
        name = f"{self._prefix}{self.dash}{len(self._rules)}"
        self._rules.append(self.define(name, body))
        return name

    def members(
        self,
        schema: Mapping[str, Any],
        depth: int,
        key: Callable[[str], str] | None = None,
        other_key: Callable[[Iterable[str]], str] | None = None,
    ) -> str:
        """The rule of an object's members: the declared ones in their order, optional ones or not, then others where
        the schema takes them.
        """
        properties = schema.get("properties")
        required = schema.get("required") or ()
        items = [
            (f"{(key or self.key)(name)} {rule or self.anything}", name in required)
            for name, value in (properties.items() if isinstance(properties, Mapping) else ())
            if (rule := self.value(value, depth + 1)) or name in required
        ]
        others = schema.get("additionalProperties", "properties" not in schema)
        rule = self.anything if schema.get("patternProperties") else self.value(others, depth + 1)
        other = f"{(other_key or self.other_key)(properties or ())} {rule}" if rule else ""
        least = schema.get("minProperties", 0)
        return self._separated(items, other, min(least, _MAX_LEAST) if isinstance(least, int) else 0)

    def _separated(self, items: Sequence[tuple[str, bool]], other: str, least: int) -> str:
        """Some of the items in order, the required ones among them, then others where there may be; `least` in all,
        with `, ` between. Built from the last to the first.
        """
        least = least if other else min(least, len(items))
        # The rules of what may follow when none, one, ... of them have been written; "" where too few were.
        follow: list[str] = []
        for written in range(max(least, 1) + 1):
            missing = max(least - written, 0)
            if not other:
                follow.append("" if missing else self.rule('""'))
            elif written:
                follow.append(self.rule(f'(", " {other}){{{missing},}}'))
            else:
                some = f'{other} (", " {other}){{{max(missing - 1, 0)},}}'
                follow.append(self.rule(some if missing else f"({some})?"))
        for item, required in reversed(items):
            bodies = []
            for written, without in enumerate(follow):
                then = follow[min(written + 1, len(follow) - 1)]
                comma = '", " ' if written else ""
                bodies.append([f"{comma}{item} {then}"] if then else [])
                bodies[-1] += [without] if without and not required else []
            follow = [self.rule(any_of(body)) if body else "" for body in bodies]
        return follow[0]

    def value(self, schema: Any, depth: int) -> str:
        """The rule of a value, or "" where there is none."""
        if schema is False:
            return ""
        if not isinstance(schema, Mapping) or depth > _MAX_DEPTH or len(self._values) > _MAX_VALUES:
            return self.anything
        text = json.dumps(schema)
        if text not in self._values:
            # Named before it is built, so that a schema may refer to itself.
            name = self._values[text] = self.dash.join((self._prefix, "value", str(len(self._values))))
            if options := alternatives(schema, self._root):
                body = any_of(self._plain(option, depth) for option in options)
                self._rules.append(self.define(name, body))
            else:
                self._values[text] = ""
        return self._values[text]

    def _plain(self, schema: Mapping[str, Any], depth: int) -> str:
        kind = schema.get("type")
        if isinstance(values := schema.get("enum"), list) and values:
            fitting = [value for value in values if kind is None or jsonschema_rs.is_valid({"type": kind}, value)]
            return any_of(map(self.literal, fitting or values))
        if isinstance(kind, list):
            return any_of(self._typed(one, schema, depth) for one in kind)
        return self._typed(kind, schema, depth)

    def _typed(self, kind: Any, schema: Mapping[str, Any], depth: int) -> str:
        if kind == "string":
            return self.string(schema)
        if kind in ("integer", "number"):
            return self.number(kind, schema)
        if kind == "boolean":
            return self.true_or_false
        if kind == "null":
            return self.null
        if kind == "array":
            return self._list(schema, depth)
        if kind == "object" or isinstance(schema.get("properties"), Mapping):
            return f'"{{" {self.members(schema, depth)} "}}"'
        return self.anything

    def _list(self, schema: Mapping[str, Any], depth: int) -> str:
        item = self.value(None if "prefixItems" in schema else schema.get("items"), depth + 1)
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        least = min(least, _MAX_COUNT) if isinstance(least, int) else 0
        if most == 0 or not item:
            return '"[]"'
        most = most if isinstance(most, int) and least <= most <= _MAX_COUNT else None
        more = f' (", " {item}){{{max(least - 1, 0)},{"" if most is None else most - 1}}}' if most != 1 else ""
        body = item + more
        return f'"[" {body} "]"' if least else f'"[" ({body})? "]"'


def any_of(bodies: Iterable[str]) -> str:
    return " | ".join(dict.fromkeys(bodies))
