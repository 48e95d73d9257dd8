"""Values as users say them: `Slot` is the words and the value that a call must carry, mostly the same text."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from training.data.words import POOLS, TEXTS

NUMBER_WORDS = dict(enumerate(POOLS["figure"]))


@dataclass(frozen=True)
class Slot:
    """A value and the words in which the user says it."""

    text: str
    value: Any


def integer(rng: random.Random, low: int, high: int) -> Slot:
    n = rng.randint(low, high)
    if n in NUMBER_WORDS and n > 0 and rng.random() < 0.2:
        return Slot(NUMBER_WORDS[n], n)
    if n >= 10000 and rng.random() < 0.15:
        return Slot(f"{n:,}", n)
    return Slot(str(n), n)


def decimal(rng: random.Random, low: float, high: float, digits: int) -> Slot:
    """A number with up to `digits` decimals; without any now and then."""
    value = round(rng.uniform(low, high), rng.choice([digits, digits, 0]))
    text = f"{value:g}" if abs(value) < 1e6 else str(int(value))
    return Slot(text, int(text) if text.lstrip("-").isdigit() else float(text))


def money(rng: random.Random) -> Slot:
    if rng.random() < 0.25:
        text = f"{rng.randint(1, 400)}.{rng.randint(1, 9)}{rng.randint(1, 9)}"
        return Slot(text, float(text))
    n = rng.choice([rng.randint(1, 99), rng.randint(1, 99) * 10, rng.randint(100, 9999)])
    return Slot(str(n), n)


def iso_date(rng: random.Random) -> Slot:
    year, month, day = rng.choice([2024, 2025, 2026, 2027]), rng.randint(1, 12), rng.randint(1, 28)
    iso = f"{year}-{month:02}-{day:02}"
    name = POOLS["month"][month - 1]
    text = rng.choice([iso, iso, iso, f"{name} {day}, {year}", f"{day} {name} {year}"])
    return Slot(text, iso)


def order_items(rng: random.Random) -> Slot:
    names = rng.sample(POOLS["dish"], rng.randint(1, 3))
    items = [(rng.randint(1, 4), name) for name in names]
    text = join_words([f"{n} {name}" for n, name in items])
    return Slot(text, [{"name": name, "quantity": n} for n, name in items])


def invoice_lines(rng: random.Random) -> Slot:
    names = rng.sample(POOLS["product"], rng.randint(1, 2))
    lines = [(rng.randint(1, 9), name, rng.randint(5, 900)) for name in names]
    text = join_words([f"{n} x {name} at {price}" for n, name, price in lines])
    return Slot(text, [{"item": i, "quantity": n, "price": p} for n, i, p in lines])


SPECIAL: dict[str, tuple[Callable[[random.Random], Slot], dict[str, Any]]] = {
    "@items": (
        order_items,
        {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"name": {"type": "string"}, "quantity": {"type": "integer"}},
                "required": ["name", "quantity"],
            },
        },
    ),
    "@lines": (
        invoice_lines,
        {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "item": {"type": "string"},
                    "quantity": {"type": "integer"},
                    "price": {"type": "number"},
                },
                "required": ["item", "quantity", "price"],
            },
        },
    ),
}


def join_words(words: list[str], last: str = " and ") -> str:
    """`a, b and c`."""
    return last.join(filter(None, [", ".join(words[:-1]), words[-1]]))


def draw(rng: random.Random, generator: str) -> Slot:
    """A slot from a generator written `name` or `name(argument)`."""
    name, _, argument = generator.removesuffix(")").partition("(")
    if name == "int":
        low, high = argument.split(",")
        return integer(rng, int(low), int(high))
    if name == "dec":
        low, high, digits = argument.split(",")
        return decimal(rng, float(low), float(high), int(digits))
    if name == "money":
        return money(rng)
    if name == "iso":
        return iso_date(rng)
    if name in ("lat", "lon"):
        value = round(rng.uniform(-80, 80) if name == "lat" else rng.uniform(-170, 170), rng.choice([2, 4]))
        return Slot(str(value), value)
    if name == "of":
        text = rng.choice(argument.split("/"))
        return Slot(text, text)
    text = TEXTS[name](rng, argument) if name in TEXTS else rng.choice(POOLS[name])
    return Slot(text, text)
