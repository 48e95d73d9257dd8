"""A regular expression as llguidance follows it: over the whole of a string, in Rust's way of writing it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from abruzzi.guide.expression import Anchor, Characters, Choice, Expression, Group, Look, Reference, Repeat, Row

# Anchors inside of groups are followed into this many branches.
_MAX_BRANCHES = 64


def whole(expression: Expression) -> str:
    """The expression, which may match anywhere in a string, as one that all of the string matches, in Rust's way of
    writing it. Raises ValueError for what can't be followed.
    """
    branches = []
    for begins, left in _opened([expression], "^"):
        for ends, items in _opened(left, "$"):
            body = "".join(_spelling(item) for item in items)
            branches.append(f"{'' if begins else '(?s:.*)'}(?:{body}){'' if ends else '(?s:.*)'}")
    if len(branches) > _MAX_BRANCHES:
        raise ValueError("too many branches")
    return "|".join(dict.fromkeys(branches))


def _opened(items: Sequence[Expression], sign: str) -> Iterator[tuple[bool, list[Expression]]]:
    """The ways to read the items, each with whether an anchor stands at their beginning (or end), and without it."""
    at, rest = (0, slice(1, None)) if sign == "^" else (-1, slice(None, -1))
    left = list(items)
    while left and (isinstance(left[at], Look) or left[at] == Row()):
        left = left[rest]
    if not left or not _has_anchor(left[at], sign):
        yield False, left
        return
    edge, others = left[at], left[rest]
    if isinstance(edge, Anchor):
        yield True, others
    elif isinstance(edge, Row):
        yield from _opened([*edge.items, *others] if sign == "^" else [*others, *edge.items], sign)
    else:
        branches = edge.branches if isinstance(edge, Choice) else [edge.item]  # type: ignore[union-attr]
        for branch in branches:
            for anchored, inside in _opened([branch], sign):
                group = Group(Row(tuple(inside)), flags=edge.flags if isinstance(edge, Group) else "")
                yield anchored, [group, *others] if sign == "^" else [*others, group]


def _has_anchor(expression: Expression, sign: str) -> bool:
    """Whether there is such an anchor that stands for itself, in no repetition."""
    if isinstance(expression, Anchor):
        return expression.sign == sign
    if isinstance(expression, Row):
        return any(_has_anchor(item, sign) for item in expression.items)
    if isinstance(expression, Choice):
        return any(_has_anchor(branch, sign) for branch in expression.branches)
    return isinstance(expression, Group) and _has_anchor(expression.item, sign)


def _spelling(expression: Expression) -> str:
    if isinstance(expression, Characters):
        return expression.spelling
    if isinstance(expression, Row):
        return "".join(map(_spelling, expression.items))
    if isinstance(expression, Choice):
        return f"(?:{'|'.join(map(_spelling, expression.branches))})"
    if isinstance(expression, Group):
        return f"(?{expression.flags}:{_spelling(expression.item)})"
    if isinstance(expression, Repeat):
        item = _spelling(expression.item)
        most = "" if expression.most is None else expression.most
        return f"(?:{item}){{{expression.least},{most}}}" if item else ""
    if isinstance(expression, Reference):
        raise ValueError("a reference to what a group matched")
    return ""
