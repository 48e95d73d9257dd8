"""What a regular expression is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

Ranges: TypeAlias = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Characters:
    """One of some characters. `spelling`: in Rust's way; `ranges`: None where only the validator knows."""

    spelling: str
    source: str
    ranges: Ranges | None


@dataclass(frozen=True, slots=True)
class Anchor:
    sign: str


@dataclass(frozen=True, slots=True)
class Row:
    items: tuple[Expression, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    branches: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    item: Expression
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Group:
    """`number`: where it is captured."""

    item: Expression
    number: int | None = None
    flags: str = ""


@dataclass(frozen=True, slots=True)
class Look:
    """What looks around. It is left out of what is followed: the expression is only looser without."""

    item: Expression
    negated: bool


@dataclass(frozen=True, slots=True)
class Reference:
    number: int


Expression: TypeAlias = Characters | Anchor | Row | Choice | Repeat | Group | Look | Reference
