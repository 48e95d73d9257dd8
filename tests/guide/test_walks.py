"""Whatever the guard lets through is valid, and whatever is valid it lets through: random walks both ways."""

from __future__ import annotations

import json
import lzma
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer

from abruzzi import RequestError, Tool, parse
from abruzzi.guide import accepts, compile
from abruzzi.guide.grammar import Grammar
from abruzzi.guide.matcher import Matcher
from tests.guide.test_examples import lines

BYTES = LLTokenizer("byte")
NAMES = ("a", "b", "ab", "c", "é")
PATTERNS = ("^a", "b$", "^[ab]+$", "a|b$", "^(?!x).", r"\d", r"^\w{1,3}$", r"\bx", "^.{2}$")
SCALARS = (None, True, False, 0, 1, -1, 2, 1.5, "", "a", "b", "ab", "abc", "x", "😀", "é", "2024-02-29", "1/2", '"\\\n')
REFERENCES = {"#/$defs/x": "x", "#/$defs/y": "y", "#/$defs/a%20b": "a b", "#/$defs/": "", "#z": "z"}
CHARACTERS = '{}[]:,"abcxé012-.eE \\/u0dtrfalsn😀'


class Made:
    """A random schema of an object, and values near to it. Its `$defs` lead into each other, but not in a circle that
    holds no member or item.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.schema = self._schema(2, root=True)
        definitions = {name: self._schema(1, refers=False) for name in REFERENCES.values()}
        self.schema["$defs"] = {**definitions, "z": {"$anchor": "z", "allOf": [definitions["z"]]}}
        self.valid = jsonschema_rs.validator_for(self.schema, validate_formats=True).is_valid

    def values(self, count: int) -> Iterator[dict[str, Any]]:
        for _ in range(count):
            if isinstance(value := self._value(self.schema, 4), dict):
                yield value

    def _draw(self, likely: float) -> bool:
        return self.random.random() < likely

    def _schema(self, depth: int, *, root: bool = False, refers: bool = True) -> Any:
        pick, draw = self.random.choice, self._draw
        if not root and draw(0.05):
            return pick((True, True, {}, False))
        if not root and refers and draw(0.06):
            return {"$ref": pick(tuple(REFERENCES))}
        if not root and draw(0.04):
            return {pick(("anyOf", "oneOf")): [{"const": one} for one in self.random.sample(SCALARS, 3)]}
        kinds = ["null", "boolean", "number", "integer", "string", "array", "object"]
        kinds = ["object"] if root else self.random.sample(kinds, pick((1, 1, 1, 2, 3)))
        made: dict[str, Any] = {"type": kinds} if root or draw(0.8) else {}
        kinds = kinds if made else ["number", "string", "array", "object"]

        def below() -> Any:
            return self._schema(depth - 1)

        def beside() -> Any:
            return self._schema(depth - 1, refers=refers)

        chances: dict[str, tuple[float, Any]] = {}
        if not root:
            chances["enum"] = (
                0.12,
                lambda: self.random.sample([*SCALARS, {"a": 1}, [1, "a"]], self.random.randint(1, 4)),
            )
            chances["const"] = 0.06, lambda: pick((*SCALARS, {"a": 1}))
        if {"number", "integer"} & set(kinds):
            for keyword in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"):
                chances[keyword] = 0.12, lambda: pick((-1, 0, 1, 2, 1.5))
            chances["multipleOf"] = 0.1, lambda: pick((1, 2, 0.5))
        if "string" in kinds:
            chances["minLength"] = chances["maxLength"] = 0.15, lambda: self.random.randint(0, 3)
            chances["pattern"] = 0.15, lambda: pick(PATTERNS)
            chances["format"] = 0.08, lambda: pick(("date", "email", "ipv4", "foo"))
        if "array" in kinds and depth:
            chances["items"] = 0.7, below
            chances["prefixItems"] = 0.2, lambda: [below() for _ in range(self.random.randint(1, 2))]
            chances["minItems"] = chances["maxItems"] = 0.2, lambda: self.random.randint(0, 3)
            chances["uniqueItems"] = 0.1, lambda: True
            chances["contains"] = chances["unevaluatedItems"] = 0.05, below
        if "object" in kinds and depth:
            chances["properties"] = 0.85, lambda: {name: below() for name in self._names(0, 3)}
            chances["required"] = 0.4, lambda: self._names(1, 2)
            chances["additionalProperties"] = 0.5, lambda: pick((False, False, True, below()))
            chances["patternProperties"] = 0.1, lambda: {pick(PATTERNS): below()}
            chances["propertyNames"] = (
                0.08,
                lambda: pick(({"maxLength": 1}, {"pattern": "^[ab]"}, {"enum": ["a", "b"]})),
            )
            chances["minProperties"] = chances["maxProperties"] = 0.1, lambda: self.random.randint(0, 3)
            chances["dependentRequired"] = 0.08, lambda: {pick(NAMES): [pick(NAMES)]}
            chances["dependentSchemas"] = 0.05, lambda: {pick(NAMES): beside()}
            chances["unevaluatedProperties"] = 0.04, lambda: pick((False, below()))
        if depth:
            for keyword in ("anyOf", "oneOf", "allOf"):
                chances[keyword] = 0.1, lambda: [beside() for _ in range(self.random.randint(1, 3))]
            chances["not"] = 0.04, beside
            chances["if"] = chances["then"] = chances["else"] = 0.06, beside
        return made | {keyword: make() for keyword, (likely, make) in chances.items() if draw(likely)}

    def _names(self, least: int, most: int) -> list[str]:
        return self.random.sample(NAMES, self.random.randint(least, most))

    def _value(self, schema: Any, depth: int) -> Any:
        pick, draw = self.random.choice, self._draw
        for _ in range(3):
            if isinstance(schema, dict) and "$ref" in schema:
                schema = self.schema["$defs"][REFERENCES[schema["$ref"]]]
        if not isinstance(schema, dict) or not depth:
            return pick(SCALARS)
        for keyword in ("anyOf", "oneOf", "allOf"):
            if keyword in schema and draw(0.5) and isinstance(one := pick(schema[keyword]), dict):
                return self._value({key: schema[key] for key in schema if key != keyword} | one, depth - 1)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return pick(schema["enum"])
        kind = pick(schema.get("type") or ("object", "array", "string", "null", "number"))
        if kind == "object":
            properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
            chosen = [
                n for n in (*NAMES, "x") if n in schema.get("required", ()) or draw(0.5 if n in properties else 0.1)
            ]
            return {name: self._value(properties.get(name, others), depth - 1) for name in chosen}
        if kind == "array":
            prefix, least = schema.get("prefixItems", []), schema.get("minItems", 0)
            parts = [*prefix, *[schema.get("items", True)] * 5][: self.random.randint(least, least + 3)]
            return [self._value(part, depth - 1) for part in parts]
        return pick([one for one in SCALARS if _is_of(one, kind)])


def _is_of(value: Any, kind: str) -> bool:
    if isinstance(value, bool) or value is None:
        return kind == ("null" if value is None else "boolean")
    return kind == "string" if isinstance(value, str) else kind in ("number", "integer")


def spelled(value: Any, rng: random.Random) -> str:
    """The value in some JSON spelling: its members in any order, any white space, any escapes."""
    space = lambda: rng.choice(("", "", "", " ", "\n", "\t ", "\r\n"))  # noqa: E731
    if isinstance(value, dict):
        members = [
            f"{space()}{_quoted(name, rng)}{space()}:{space()}{spelled(one, rng)}{space()}"
            for name, one in value.items()
        ]
        return f"{{{space()}{','.join(rng.sample(members, len(members)))}}}"
    if isinstance(value, list):
        return f"[{space()}{','.join(f'{space()}{spelled(one, rng)}{space()}' for one in value)}]"
    return _quoted(value, rng) if isinstance(value, str) else json.dumps(value)


def _quoted(text: str, rng: random.Random) -> str:
    written = []
    for character in text:
        plain = json.dumps(character, ensure_ascii=False)[1:-1]
        units = character.encode("utf-16-be")
        escaped = "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))
        upper = escaped.upper().replace("\\U", "\\u")
        written.append(rng.choice((plain, plain, plain, escaped, upper, "\\/" if character == "/" else plain)))
    return f'"{"".join(written)}"'


def ended(matcher: Matcher) -> str:
    """The whole text, once the matcher has been brought to its end by its own steps."""
    for _ in range(400):
        if matcher.whole:
            return matcher.text
        matcher.feed(matcher.step())
        matcher.recover()
    raise AssertionError(f"no end of {matcher.text}")


@settings(max_examples=800)
@given(st.integers(0, 1_000_000))
def test_what_is_valid_is_accepted_in_any_spelling_and_what_is_not_in_none(seed: int) -> None:
    made = Made(seed)
    values = [(value, made.valid(value)) for value in made.values(10)]
    try:
        compile(made.schema)
    except RequestError:
        assert not any(valid for _, valid in values)
        return
    for value, valid in values:
        text = spelled(value, made.random)
        assert accepts(made.schema, text) == valid, text


@settings(max_examples=500)
@given(st.integers(0, 1_000_000))
def test_how_a_text_is_cut_changes_nothing(seed: int) -> None:
    made = Made(seed)
    try:
        arguments = compile(made.schema)
    except RequestError:
        return
    for value in made.values(6):
        text = spelled(value, made.random)
        cuts = sorted(made.random.sample(range(len(text)), min(3, len(text))))
        pieces = [text[i:j] for i, j in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        results = [fed(arguments.matcher(), parts) for parts in ([text], pieces, list(text))]
        assert results[1:] == results[:-1], text
        if made.valid(value):
            assert results[0] == (text, False)


def fed(matcher: Matcher, pieces: Sequence[str]) -> tuple[str, bool]:
    """What goes out of the pieces up to a fault, and whether there is one."""
    out = ""
    for piece in pieces:
        out += matcher.feed(piece)
        if matcher.fault is not None:
            break
    return out, matcher.fault is not None


@settings(max_examples=500)
@given(st.integers(0, 1_000_000))
def test_whatever_characters_are_fed_what_goes_out_comes_to_a_valid_end(seed: int) -> None:
    made = Made(seed)
    try:
        arguments = compile(made.schema)
    except RequestError:
        return
    matcher = arguments.matcher()
    for _ in range(made.random.choice((0, 30, 150))):
        matcher.feed(made.random.choice(CHARACTERS))
        matcher.recover()
    try:
        text = ended(matcher)
    except LookupError:
        return  # what the matcher holds apart (`not`, `if`, ...) may leave nothing, and that is told of
    assert made.valid(json.loads(text)), text


@pytest.mark.parametrize("seed", range(40))
def test_every_character_that_may_stand_leads_on(seed: int) -> None:
    made = Made(seed)
    try:
        arguments = compile(made.schema)
    except RequestError:
        return
    text = ""
    for _ in range(30):
        standing = []
        for character in CHARACTERS:
            matcher = arguments.matcher()
            if matcher.feed(text + character) + matcher.pending == text + character and matcher.fault is None:
                standing.append(character)
        matcher = arguments.matcher()
        matcher.feed(text)
        if matcher.whole:
            assert made.valid(json.loads(text))
            break
        try:
            end = ended(matcher)
        except LookupError:
            break  # see above
        assert made.valid(json.loads(end)), text
        if not standing:  # only what is held can have no way on, and it hasn't gone out
            assert matcher.text != text
            break
        text += made.random.choice(standing)


@pytest.mark.parametrize("part", range(4))
def test_valid_instances_of_real_schemas_are_accepted_in_any_spelling(shared: Path, part: int) -> None:
    rng = random.Random(part)
    for line in lines(shared, "maskbench", 12, part):
        text = ""
        try:
            arguments = compile(line["schema"])
        except RequestError:
            assert not any(isinstance(value, dict) for value in line["valid"])
            continue
        for value in line["valid"]:
            if isinstance(value, dict):
                matcher = arguments.matcher()
                matcher.feed(text := spelled(value, rng))
                assert matcher.whole, (line["id"], matcher.fault)
        for value in line["invalid"]:
            if isinstance(value, dict):
                matcher = arguments.matcher()
                matcher.feed(spelled(value, rng))
                assert not matcher.whole, line["id"]
        if text and len(text) < 4000:
            matcher = arguments.matcher()
            matcher.feed(text[: rng.randrange(len(text))])
            assert arguments.fault(ended(matcher)) is None


def walked(grammar: Grammar, rng: random.Random) -> str:
    """An output by way of the masks; the longer it gets, the more it is drawn to its end."""
    matcher = LLMatcher(BYTES, LLMatcher.grammar_from_lark(grammar.lark))
    written = bytearray()
    while not (written.endswith(b"<|tool_calls_section_end|>") and matcher.is_accepting()):
        mask = matcher.compute_bitmask()
        allowed = [byte for byte in range(256) if mask[byte >> 3] >> (byte & 7) & 1]
        assert allowed and len(written) < 20_000, written[-200:]
        if written[-1:].isdigit():  # a number that no double holds is what llguidance lets pass
            allowed = [byte for byte in allowed if byte not in b"eE"] or allowed
        ends = [byte for byte in b'"}]<,0' if byte in allowed]
        plain = [byte for byte in allowed if 32 < byte < 127] or allowed
        drawn = rng.random()
        if ends and drawn < (0.2 if len(written) < 300 else 0.95):
            byte = ends[0]
        else:
            byte = rng.choice(plain if drawn < 0.9 else allowed)
        matcher.try_consume_tokens([byte])
        written.append(byte)
    return written.decode()


def test_any_output_that_the_masks_allow_is_of_calls_that_validate(shared: Path) -> None:
    with lzma.open(shared / "schemas" / "github_mcp_tools.json.xz", "rt") as file:
        github = json.load(file)
    declared = [*github, *(line["tool"] for line in lines(shared, "mcp_tools", 20, 0))]
    tools = list({tool["function"]["name"]: tool for tool in declared}.values())
    rng = random.Random(5)
    exact = 0
    for _ in range(120):
        chosen = [
            Tool(one["function"]["name"], None, one["function"].get("parameters")) for one in rng.sample(tools, 3)
        ]
        grammar = Grammar.for_turn(chosen, tool_choice="required")
        chosen = [tool for tool in chosen if tool.name not in grammar.loose]
        if not chosen:
            continue
        exact += 1
        grammar = Grammar.for_turn(chosen, tool_choice="required")
        text = walked(grammar, rng)
        message = parse(text, tools=chosen)
        assert message.tool_calls, text
        assert not message.problems, text
        for number, call in enumerate(message.tool_calls):
            schema = next(tool.parameters for tool in chosen if tool.name == call.function.name)
            assert call.id == f"functions.{call.function.name}:{number}"
            assert accepts(schema, call.function.arguments), call
    assert exact > 60
