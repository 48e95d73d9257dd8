"""What is wrong with a call: each class in which K2's are damaged."""

from __future__ import annotations

import json
import random
import re
import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from abruzzi import Tool
from abruzzi.protocol.markers import ARGUMENT_BEGIN as A
from abruzzi.protocol.markers import CALL_BEGIN as B
from abruzzi.protocol.markers import CALL_END as E
from abruzzi.protocol.markers import MARKERS, THINK_END
from abruzzi.protocol.markers import SECTION_BEGIN as S
from abruzzi.protocol.markers import SECTION_END as Z
from tests.hostile.habits import _JSON
from tests.hostile.judge import fault

END = "<|im_end|>"


@dataclass(slots=True)
class Writing:
    """A call as it is going to be written."""

    tool: Tool
    index: int
    right: str
    arguments: str
    id: str
    is_last: bool
    before: str = ""
    """What stands before the call: for the first one, the section's marker, and the end of the reasoning."""
    begin: str = B
    mark: str = A
    end: str = E
    after: str = ""
    """For the last one, the section's end."""
    is_cut: bool = False
    """Whether the output ends behind it."""
    is_packed: bool = False
    """Whether the next one begins without its marker."""
    stands: str | None = None
    """What stands already of the id."""

    def __str__(self) -> str:
        id = self.id
        if self.stands is not None:
            begun = _shared(id, self.stands)
            left, id = self.stands[begun:], id[begun:]
            # Nobody writes a second time what stands, even where it goes on wrong.
            again = next((n for n in range(len(left), 0, -1) if id.startswith(left[-n:])), 0)
            id = "" if ":" in left else id[again:]
        return f"{self.before}{self.begin}{id}{self.mark}{self.arguments}{self.end}{self.after}"

    @property
    def value(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.right)
        return value

    def truncate(self, arguments: str, end: str = "") -> None:
        self.arguments, self.end, self.after, self.is_cut = arguments, end, "", True


def _shared(a: str, b: str) -> int:
    """How many characters both begin with."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


Damage = Callable[[Writing, random.Random], bool | None]
"""Damages the call, or returns False where the class has nothing to damage in it."""
DAMAGES: dict[str, Damage] = {}


def damage(name: str) -> Callable[[Damage], Damage]:
    def register(function: Damage) -> Damage:
        DAMAGES[name] = function
        return function

    return register


def _head(name: str, spell: Callable[[Writing, random.Random], str]) -> None:
    """A class that damages the call's id."""

    def apply(call: Writing, rng: random.Random) -> None:
        call.id = spell(call, rng)

    DAMAGES[name] = apply


def _hex(rng: random.Random, count: int) -> str:
    return "".join(rng.choices("0123456789abcdef", k=count))


def _mistyped(call: Writing, rng: random.Random) -> str:
    name = call.tool.name
    at = rng.randrange(len(name))
    typed = rng.choice((name[:at] + name[at + 1 :], name[:at] + rng.choice(string.ascii_lowercase) + name[at:]))
    return f"functions.{typed or 'x'}:{call.index}"


_head("A1 newline in the header", lambda call, rng: f"\n{call.id}\n ")
_head("A2 no functions.", lambda call, rng: call.id.removeprefix("functions."))
_head("A5 bare counter", lambda call, rng: str(call.index))
_head("A6 glued", lambda call, rng: f"functions{call.tool.name}{call.index}")
_head("A7 call_N", lambda call, rng: f"call_{call.index:05d}")
_head("A8 tool_call_N", lambda call, rng: f"tool_call_{call.index}")
_head("A9 underscores", lambda call, rng: f"functions_{call.tool.name}_{call.index}")
_head("A10 call_UUID", lambda call, rng: f"call_{'-'.join(_hex(rng, count) for count in (8, 4, 4, 4, 12))}")
_head("A14 another model's id", lambda call, rng: f"call_{_hex(rng, 24)}")
_head("no index", lambda call, rng: f"functions.{call.tool.name}")
_head("wrong index", lambda call, rng: f"functions.{call.tool.name}:{call.index + rng.randrange(1, 50)}")
_head("name mistyped", _mistyped)
_head("name in capitals", lambda call, rng: f"functions.{call.tool.name.swapcase()}:{call.index}")
_head("prose in the header", lambda call, rng: f"I call {call.tool.name} now")
_head(
    "E51 undeclared tool",
    lambda call, rng: f"functions.{rng.choice(('img_gen', 'web.run', 'browser__open'))}:{call.index}",
)


@damage("B16 singular section marker")
def _(call: Writing, rng: random.Random) -> bool:
    call.before = call.before.replace(S, "<|tool_call_section_begin|>")
    call.after = call.after.replace(Z, "<|tool_call_section_end|>")
    return bool(call.before or call.after)


@damage("B17 no section")
def _(call: Writing, rng: random.Random) -> bool:
    had = S in call.before
    call.before, call.after = call.before.replace(S, ""), call.after.replace(Z, "")
    return had


def _behind(name: str, text: str) -> None:
    """A class that replaces the section's end."""

    def apply(call: Writing, rng: random.Random) -> bool:
        call.after = text
        return call.is_last

    DAMAGES[name] = apply


_behind("B18 no section's end", "")
_behind("B26 white space behind the calls", f"{Z}\n\n")
_behind("B27 text behind the calls", f"{Z} Done.")
_behind("B28 a role's label behind the calls", f"{Z}user")
_behind("B29 the turn's end, and more", f"{Z}{END}<|im_user|>user<|im_middle|>Thanks!{END}")


@damage("B19 no call's end before the section's")
def _(call: Writing, rng: random.Random) -> bool:
    call.end = ""
    return call.is_last


@damage("B20 no call's end before the next")
def _(call: Writing, rng: random.Random) -> bool:
    call.end = ""
    return not call.is_last


@damage("B21 packed")
def _(call: Writing, rng: random.Random) -> bool:
    call.end, call.is_packed = "", True
    return not call.is_last


@damage("B24 text before the call")
def _(call: Writing, rng: random.Random) -> None:
    call.before += " Calling it now. "


@damage("B30 a marker in a string")
def _(call: Writing, rng: random.Random) -> bool:
    value = call.value
    texts = [key for key, one in value.items() if isinstance(one, str)]
    if not texts:
        return False
    value[rng.choice(texts)] += f" {rng.choice(MARKERS)}"
    call.arguments = json.dumps(value, ensure_ascii=False)
    return fault(call.tool.name, call.arguments, [call.tool]) is None


@damage("D41 inside the reasoning")
def _(call: Writing, rng: random.Random) -> bool:
    had = THINK_END + S in call.before
    call.before = call.before.replace(THINK_END + S, S)
    return had


@damage("marker of the arguments missing")
def _(call: Writing, rng: random.Random) -> None:
    call.mark = ""


@damage("markers twice")
def _(call: Writing, rng: random.Random) -> None:
    call.begin, call.mark, call.end = call.begin * 2, call.mark * 2, call.end * 2


@damage("turn's end in the arguments")
def _(call: Writing, rng: random.Random) -> None:
    call.truncate(call.right[: rng.randrange(len(call.right))], END)


@damage("call's end in the arguments")
def _(call: Writing, rng: random.Random) -> None:
    call.arguments = call.right[: rng.randrange(len(call.right))]


@damage("ends in the arguments")
def _(call: Writing, rng: random.Random) -> None:
    call.truncate(call.right[: rng.randrange(len(call.right))])


@damage("ends in a marker")
def _(call: Writing, rng: random.Random) -> None:
    call.truncate(call.right, call.end[: rng.randrange(1, len(E))])


@damage("ends in the header")
def _(call: Writing, rng: random.Random) -> None:
    call.id, call.mark = call.id[: rng.randrange(len(call.id))], ""
    call.truncate("")


def _text(name: str, change: Callable[[str, random.Random], str]) -> None:
    """A class that damages the text of the arguments."""

    def apply(call: Writing, rng: random.Random) -> bool:
        call.arguments = change(call.right, rng)
        return call.arguments != call.right

    DAMAGES[name] = apply


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


_text("E46 encoded twice", lambda text, rng: _quoted(text))
_text("E46 encoded three times", lambda text, rng: _quoted(_quoted(text)))
_text("E47 null", lambda text, rng: "null")
_text("E47 broken and quoted", lambda text, rng: _quoted(re.sub(r'"', "", text)))
_text("E48 empty", lambda text, rng: "")
_text("E49 several lines", lambda text, rng: json.dumps(json.loads(text), indent=rng.randrange(5), ensure_ascii=False))
_text("E50 trailing comma", lambda text, rng: re.sub(r"}$", ",}", text))
_text("single quotes", lambda text, rng: text.replace('"', "'"))
_text("typographic quotes", lambda text, rng: re.sub(r'"([^"]*)"', "\u201c\\1\u201d", text))
_text("Python's literals", lambda text, rng: repr(json.loads(text)).replace("'", '"'))
_text("keys without quotes", lambda text, rng: re.sub(r'"(\w+)":', r"\1:", text))
_text("equals for colon", lambda text, rng: text.replace('": ', '" = ', 1))
_text("no colon", lambda text, rng: text.replace('": ', '" ', 1))
_text("no comma", lambda text, rng: text.replace(', "', ' "', 1))
_text("two commas", lambda text, rng: text.replace(', "', ',, "', 1))
_text("no closing brace", lambda text, rng: text[:-1])
_text("extra closing brace", lambda text, rng: text + "}")
_text("wrong bracket", lambda text, rng: text[:-1] + "]")
_text("text behind the arguments", lambda text, rng: text + " I hope this helps.")
_text("text before the arguments", lambda text, rng: "Arguments: " + text)
_text("arguments twice", lambda text, rng: text + text)
_text("comment", lambda text, rng: text.replace("{", rng.choice(("{ // here\n", "{ /* here */ ")), 1))
_text("code fence", lambda text, rng: f"```json\n{text}\n```")
_text("in a list", lambda text, rng: f"[{text}]")
_text("in an object", lambda text, rng: f'{{"arguments": {text}}}')
_text("with its name", lambda text, rng: f'{{"name": "f", "parameters": {text}}}')
_text("as XML", lambda text, rng: "<parameter>" + text + "</parameter>")
_text("ellipsis", lambda text, rng: text[:-1] + ", ...}")
_text("raw newline in a string", lambda text, rng: text.replace('": "', '": "\n', 1))
_text("NUL in a string", lambda text, rng: text.replace('": "', '": "\x00', 1))
_text("bad escape", lambda text, rng: text.replace('": "', '": "' + rng.choice(("\\'", "\\x41", "\\ ")), 1))
_text("half a surrogate escaped", lambda text, rng: text.replace('": "', '": "\\ud83d', 1))
_text("key twice", lambda text, rng: re.sub(r'^\{(\s*"[^"]*")', r"{\1: null, \1", text))
_text("NaN", lambda text, rng: re.sub(r": -?\d[\d.]*", lambda _: ": " + rng.choice(("NaN", "Infinity")), text, count=1))
_text("number with a plus", lambda text, rng: re.sub(r": (\d)", r": +\1", text, count=1))
_text("number with leading zeros", lambda text, rng: re.sub(r": (\d)", r": 00\1", text, count=1))
_text("string without its end", lambda text, rng: re.sub(r'"}$', "}", text))
_text("garbage", lambda text, rng: "".join(rng.choices(_JSON, k=12)))


def _value(name: str, change: Callable[[dict[str, Any], Writing, random.Random], None]) -> None:
    """A class that damages what the arguments say."""

    def apply(call: Writing, rng: random.Random) -> bool:
        value = call.value
        change(value, call, rng)
        call.arguments = json.dumps(value, ensure_ascii=False)
        return value != call.value

    DAMAGES[name] = apply


def _wrong_type(value: dict[str, Any], call: Writing, rng: random.Random) -> None:
    for key in rng.sample(list(value), min(1, len(value))):
        value[key] = str(value[key]) if not isinstance(value[key], str) else rng.choice((7, [value[key]], None, True))


def _misspelled(value: dict[str, Any], call: Writing, rng: random.Random) -> None:
    properties = (call.tool.parameters or {}).get("properties") or {}
    for key, one in value.items():
        if isinstance(one, str) and "enum" in (properties.get(key) or {}):
            value[key] = rng.choice((one + "s", one[:-1], one.swapcase()))
            return


def _without_required(value: dict[str, Any], call: Writing, rng: random.Random) -> None:
    required = [key for key in (call.tool.parameters or {}).get("required") or () if key in value]
    if required:
        del value[rng.choice(required)]


def _key_misspelled(value: dict[str, Any], call: Writing, rng: random.Random) -> None:
    for key in rng.sample(list(value), min(1, len(value))):
        value[rng.choice((key + "_", key[:-1], key.title()))] = value.pop(key)


def _all_strings(value: dict[str, Any], call: Writing, rng: random.Random) -> None:
    value.update({key: str(one) for key, one in value.items()})


_value("wrong type", _wrong_type)
_value("all values strings", _all_strings)
_value("enum misspelled", _misspelled)
_value("required missing", _without_required)
_value("key misspelled", _key_misspelled)
_value("property invented", lambda value, call, rng: value.update({"reason": "It seemed right."}))
_value("all properties null", lambda value, call, rng: value.update(dict.fromkeys(value)))

RESPELLINGS = frozenset(("B30 a marker in a string", "E49 several lines"))
"""Classes whose arguments are right as they are written."""
