"""What a user asks for: the phrases of the catalogue, filled with values and written carelessly now and then."""

from __future__ import annotations

import itertools
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.data import slots
from training.data.catalog import Param, Spec
from training.data.material import pools
from training.data.slots import Slot, join_words

ITEM = re.compile(r"\$(?:\{(\w+)\}|(\*?[a-z]+(?:\.[a-z_]+)?)|\(([a-z]+)=([^)]*)\))")
FOREIGN = pools("foreign_pools")
CONNECTORS = (" And ", " Also, ", " Then ", " and ", " and also ", " Besides, ", " Plus: ", "\n")


@dataclass(frozen=True)
class Request:
    """What the user says, and the arguments (by slot) of each call that it needs."""

    text: str
    calls: tuple[Mapping[str, Any], ...]
    words: Mapping[str, str]


def expand(template: str, rng: random.Random) -> str:
    """Choose among `<a|b>` and keep or drop `[a]`, the innermost first."""
    inner = re.compile(r"<([^<>\[\]]*)>|\[([^<>\[\]]*)\]")
    while match := inner.search(template):
        kept = rng.choice(match[1].split("|")) if match[1] is not None else match[2]
        chosen = "" if match[1] is None and rng.random() >= 0.35 else kept
        template = template[: match.start()] + chosen + template[match.end() :]
    return re.sub(r"  +", " ", template).strip()


def value_of(param: Param, rng: random.Random, language: str = "") -> Slot:
    """A value for a parameter and the words for it."""
    if param.kind == "e":
        value, spoken = rng.choice(param.choices)
        return Slot(spoken, value)
    if param.kind.startswith("@"):
        return slots.SPECIAL[param.kind][0](rng)
    if param.kind.endswith("[]"):
        items = distinct(param, rng, rng.choice([1, 2, 2, 3]), language)
        if param.kind in ("i[]", "n[]"):
            generator = param.generator or "int(1,200)"
            items = [coerced(param, slots.draw(rng, generator)) for _ in range(rng.randint(3, 6))]
            items = [Slot(str(item.value), item.value) for item in items]
        return Slot(join_words([item.text for item in items]), [item.value for item in items])
    return coerced(param, local_draw(rng, param.generator, language))


def local_draw(rng: random.Random, generator: str, language: str) -> Slot:
    """A value from the pool of a language where it has one."""
    pool = FOREIGN.get(f"{language}.{generator}")
    if pool and rng.random() < 0.75:
        text = rng.choice(pool)
        return Slot(text, text)
    return slots.draw(rng, generator)


def coerced(param: Param, slot: Slot) -> Slot:
    if param.kind[0] in "in" and isinstance(slot.value, str):
        number = float(slot.value)
        return Slot(slot.text, int(number) if number.is_integer() else number)
    return slot


def distinct(param: Param, rng: random.Random, count: int, language: str = "") -> list[Slot]:
    found: dict[str, Slot] = {}
    for _ in range(40):
        is_choice = param.kind == "e"
        slot = value_of(param, rng) if is_choice else coerced(param, local_draw(rng, param.generator, language))
        if len(found) < count and not any(k.lower() == slot.text.lower() for k in found):
            found[slot.text] = slot
    return list(found.values())


def phrase(spec: Spec, template: str, rng: random.Random, language: str = "", *, plain: bool = False) -> Request:
    """Fill a request: the text, and the arguments by slot. `plain` is written carefully."""
    template = expand(template, rng)
    if "((" in template:
        return repeated(spec, template, rng)
    words: dict[str, str] = {}
    arguments: dict[str, Any] = {}
    many: list[list[tuple[str, Any]]] = []
    pieces: list[tuple[str, bool]] = []
    at = 0
    for match in ITEM.finditer(template):
        pieces.append((template[at : match.start()], False))
        at = match.end()
        name = match[1] or match[2]
        if match[3]:
            arguments[match[3]] = json.loads(match[4])
        elif name.startswith("*"):
            param = spec.param(name[1:])
            found = distinct(param, rng, rng.choice([2, 2, 2, 3, 3, 4]), language)
            many.append([(name[1:], one.value) for one in found])
            last = {"zh": "和"}.get(language, rng.choice([" and ", " and ", ", ", " & "]))
            pieces.append((join_words([one.text for one in found], last), True))
        else:
            pieces.append((fill(spec, name, rng, words, arguments, language), True))
    pieces.append((template[at:], False))
    text = noised(pieces, rng, plain=plain or bool(language))
    # Of two lists every pair is meant.
    calls = tuple({**arguments, **dict(chosen)} for chosen in itertools.product(*many))
    return Request(text, calls, words)


def repeated(spec: Spec, template: str, rng: random.Random) -> Request:
    """Fill a request whose `((clause))` is said several times, each time with other values: a call for each."""
    before, _, rest = template.partition("((")
    clause, _, after = rest.partition("))")
    words: dict[str, str] = {}
    shared: dict[str, Any] = {}

    def filled(text: str, arguments: dict[str, Any]) -> str:
        def one(match: re.Match[str]) -> str:
            if match[3]:
                arguments[match[3]] = json.loads(match[4])
                return ""
            own = words if arguments is shared else {}
            return fill(spec, match[1] or match[2], rng, own, arguments, "")

        return ITEM.sub(one, text)

    opening, ending = filled(before, shared), filled(after, shared)
    calls: dict[str, Mapping[str, Any]] = {}
    for _ in range(rng.choice([2, 2, 2, 3, 3, 4])):
        arguments = dict(shared)
        calls.setdefault(filled(clause, arguments), arguments)
    last = rng.choice([" and ", " and ", ", and ", ", ", " and then ", " as well as "])
    text = opening + join_words(list(calls), last) + ending
    return Request(noised([(text, False)], rng, plain=True), tuple(calls.values()), words)


def fill(
    spec: Spec,
    name: str,
    rng: random.Random,
    words: dict[str, str],
    arguments: dict[str, Any],
    language: str,
) -> str:
    """The words for `slot` or `slot.field`, setting the argument."""
    if name in words:
        return words[name]
    if "." in name:
        slot, part = name.split(".")
        generator = next(gen for field_name, gen, _ in spec.param(slot).fields if field_name == part)
        drawn = slots.draw(rng, generator)
        arguments.setdefault(slot, {})[part] = drawn.value
    else:
        # Two cities of one request differ, and "dollars" aren't changed into "USD".
        for _ in range(20):
            drawn = value_of(spec.param(name), rng, language)
            texts = [*words.values(), *(value for value in arguments.values() if isinstance(value, str))]
            if drawn.text not in texts and drawn.value not in texts:
                break
        arguments[name] = drawn.value
    text = drawn.text
    if language and isinstance(drawn.value, int) and text in slots.NUMBER_WORDS.values():
        text = str(drawn.value)
    words[name] = text
    return text


def noised(pieces: Sequence[tuple[str, bool]], rng: random.Random, *, plain: bool) -> str:
    """Join the pieces; what is not a value may be written carelessly."""
    lower, typo = rng.random() < 0.14, rng.random() < 0.07
    drop_end = rng.random() < 0.15
    text = ""
    for piece, is_value in pieces:
        if not is_value and not plain:
            piece = piece.lower() if lower else piece
            piece = misspelled(piece, rng) if typo else piece
        text += piece
    # A value may itself end in a full stop, so only the template's own is dropped.
    if drop_end and not plain and pieces[-1][0] in (".", "?"):
        text = text[:-1]
    return text.strip()


def misspelled(text: str, rng: random.Random) -> str:
    words = text.split(" ")
    places = [i for i, word in enumerate(words) if len(word) > 3 and word.isalpha()]
    if places:
        i = rng.choice(places)
        k = rng.randrange(1, len(words[i]) - 1)
        word = words[i]
        swapped = word[:k] + word[k + 1] + word[k] + word[k + 2 :]
        words[i] = rng.choice([swapped, word[:k] + word[k + 1 :], word[:k] + word[k] + word[k:]])
    return " ".join(words)


def varied(text: str, rng: random.Random) -> str:
    """A question without values, written carelessly now and then."""
    draw = rng.random()
    if draw < 0.1:
        return text.lower()
    return text.rstrip("?.!") if draw < 0.2 else text


def joined(texts: Sequence[str], rng: random.Random) -> str:
    """Two requests as one message."""
    connector = rng.choice(CONNECTORS)
    first, second = texts
    if connector.strip():
        word = second.split(" ")[0]
        if word.isalpha() and word[1:].islower() and " " in second:
            second = second[0].lower() + second[1:]
    if connector in (" and ", " and also "):
        return first.rstrip(".?!") + connector + second
    if first[-1] not in ".?!" and connector != "\n":
        first += "."
    return first + connector + second
