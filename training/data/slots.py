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
    is_year = low >= 1000 and high <= 2200
    if n >= 1000 and not is_year and rng.random() < 0.3:
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
    n = rng.choice([rng.randint(1, 99), rng.randint(1, 99) * 10, rng.randint(100, 9999), rng.randint(2, 900) * 1000])
    return Slot(f"{n:,}" if rng.random() < 0.4 else str(n), n)


def iso_date(rng: random.Random) -> Slot:
    year, month, day = rng.choice([2024, 2025, 2026, 2027]), rng.randint(1, 12), rng.randint(1, 28)
    iso = f"{year}-{month:02}-{day:02}"
    name = POOLS["month"][month - 1]
    text = rng.choice([iso, iso, iso, f"{name} {day}, {year}", f"{day} {name} {year}"])
    return Slot(text, iso)


def clock(rng: random.Random) -> Slot:
    """A time of day as it is said, for a tool that wants HH:MM."""
    hour, minute = rng.randint(0, 23), rng.choice([0, 0, 0, 15, 30, 30, 45, 5 * rng.randint(0, 11)])
    value = f"{hour:02}:{minute:02}"
    half, small = ("am" if hour < 12 else "pm"), hour % 12 or 12
    past = f":{minute:02}"
    said = [f"{small}{past if minute else ''}{gap}{half}" for gap in ("", " ")]
    said += [f"{small}{past} {half.upper()}", f"{small}{past if minute else ''} {half[0]}.m.", value]
    if not minute:
        said += [f"{small} o'clock in the {'morning' if hour < 12 else 'afternoon' if hour < 18 else 'evening'}"] * (
            hour > 5
        )
        said += ["noon"] * (hour == 12) * 3 + ["midnight"] * (hour == 0) * 3
    if minute == 30 and hour > 5:
        part = "morning" if hour < 12 else "afternoon" if hour < 18 else "evening"
        said.append(f"half past {NUMBER_WORDS.get(small, small)} in the {part}")
    return Slot(rng.choice(said), value)


def lasting(rng: random.Random, unit: str) -> Slot:
    """A length of time as it is said, for a tool that wants it in `unit`: s, min or d."""
    a = rng.randint(2, 12)
    in_words = NUMBER_WORDS[a] if rng.random() < 0.3 else str(a)
    said = {
        "s": [("half a minute", 30), ("a minute", 60), (f"{in_words} minutes", a * 60), (f"{a * 5} seconds", a * 5)],
        "min": [
            *[("half an hour", 30), ("an hour", 60), ("an hour and a half", 90), ("a quarter of an hour", 15)],
            *[(f"{in_words} hours", a * 60), (f"{a * 5} minutes", a * 5), (f"{a * 5} min", a * 5)] * 2,
        ],
        "d": [("a week", 7), ("two weeks", 14), (f"{in_words} days", a), (f"{in_words} days", a), ("a fortnight", 14)],
    }[unit]
    return Slot(*rng.choice(said))


def large(rng: random.Random) -> Slot:
    """A number of thousands or millions as it is said."""
    a, b = rng.randint(2, 990), rng.randint(1, 9)
    return Slot(
        *rng.choice(
            [
                (f"{a}k", a * 1000),
                (f"{a} thousand", a * 1000),
                (f"{a % 30 + 1} million", (a % 30 + 1) * 1_000_000),
                (f"{a % 9 + 1}.{b} million", (a % 9 + 1) * 1_000_000 + b * 100_000),
                (f"{a * 1000:,}", a * 1000),
                (str(a * 500), a * 500),
            ]
        )
    )


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


SAID: dict[str, Callable[[random.Random], Slot]] = {
    "money": money,
    "iso": iso_date,
    "clock": clock,
    "seconds": lambda rng: lasting(rng, "s"),
    "minutes": lambda rng: lasting(rng, "min"),
    "days": lambda rng: lasting(rng, "d"),
    "large": large,
}
# Of these and of pools whose values are said otherwise (`euros=>EUR`), a tool must tell the form that it wants.
_CONVERTED = {"clock", "seconds", "minutes", "days"}


def is_converted(generator: str) -> bool:
    name = generator.partition("(")[0]
    return name in _CONVERTED or any("=>" in text for text in POOLS.get(name, ()))


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
    if name in SAID:
        return SAID[name](rng)
    if name in ("lat", "lon"):
        value = round(rng.uniform(-80, 80) if name == "lat" else rng.uniform(-170, 170), rng.choice([2, 4]))
        return Slot(str(value), value)
    if name == "of":
        text = rng.choice(argument.split("/"))
        return Slot(text, text)
    text = TEXTS[name](rng, argument) if name in TEXTS else rng.choice(POOLS[name])
    said, is_other, value = text.partition("=>")
    return Slot(said, value if is_other else text)
