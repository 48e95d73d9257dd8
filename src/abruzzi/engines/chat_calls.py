"""The calls of a chat's answer come in parts: which call each is a part of."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from abruzzi.guide.reading import parse
from abruzzi.protocol.json_scanner import JsonScanner
from abruzzi.protocol.variants import Variant

Known = tuple[str, Any]
"""A call's name and its arguments, read."""


class Call:
    def __init__(self, number: int, id: str | None) -> None:
        self.number, self.id = number, id
        self.name = ""
        self.parts: list[str] = []
        """Its arguments, as they came."""
        self.written: int | None = None
        """How many of them are; None before its head is."""
        self._scanner = JsonScanner()

    @property
    def is_whole(self) -> bool:
        return self._scanner.whole

    @property
    def is_open(self) -> bool:
        """Whether its arguments stand inside an object, an array or a string."""
        return self._scanner.open

    def take(self, name: str, arguments: str) -> None:
        """A name comes whole, in pieces, or each time as far as it is known; behind it the arguments."""
        if not self.parts:
            self.name = self.with_more(name)
        if arguments:
            self.parts.append(arguments)
            at = 0
            while at < len(arguments) and not self._scanner.whole:
                at = max(self._scanner.scan(arguments, at), at + 1)

    def with_more(self, name: str) -> str:
        return name if name.startswith(self.name) else self.name + name

    def known(self) -> Known:
        return self.name, _read("".join(self.parts))

    def differs(self, id: str | None) -> bool:
        """Whether the id is another than its own."""
        return bool(id and self.id and id != self.id)

    def retells(self, id: str | None, name: str, arguments: str) -> bool:
        """Whether a part is this call once more, which is whole: as some hosts end their stream."""
        if not self.is_whole or self.differs(id) or name not in ("", self.name):
            return False
        return not arguments or _read(arguments) == self.known()[1]


class Calls(list[Call]):
    """An answer's calls, in the order in which they begin.

    What hosts do: give each call an index, or all the same, or none; an id with its first part, with each part the same
    or with each a new one, or none; the name with the first part, with each, or in pieces.
    """

    def __init__(self, names: Collection[str]) -> None:
        """`names`: of the tools that there are to call."""
        super().__init__()
        self._names = names
        self._named_again: Call | None = None  # a whole one, told once more or by the head of one of the same tool
        self._by_index: dict[int, Call] = {}
        self._by_id: dict[str, Call] = {}

    def take(self, index: int | None, id: str | None, name: str, arguments: str) -> Call | None:
        """The call that this was a part of; None where it told a whole one once more."""
        known = self._known(index, id)
        if known is None:
            call = self._begin(index, id)
        elif known is self._named_again and arguments and not name:
            call, name = self._begin(index, id), known.name
        elif (index is not None or id or known.id) and known.retells(id, name, arguments):
            self._named_again = None if arguments else known
            return None
        else:
            call = self._begin(index, id) if self._is_next(known, index, id, name, arguments) else known
        call.take(name, arguments)
        return call

    def _known(self, index: int | None, id: str | None) -> Call | None:
        if index is not None:
            return self._by_index.get(index)
        return self._by_id.get(id or "") or (self[-1] if self else None)

    def _begin(self, index: int | None, id: str | None) -> Call:
        call = Call(len(self), id)
        self.append(call)
        if index is not None:
            self._by_index[index] = call
        if id:
            self._by_id[id] = call
        return call

    def _is_next(self, known: Call, index: int | None, id: str | None, name: str, arguments: str) -> bool:
        """Whether a part that seems to be the known call's begins another."""
        if not name:
            return known.is_whole and known.differs(id) and bool(arguments)
        if known.is_whole:
            return True
        if known.parts:  # inside of them nothing else begins, but where calls are told apart by id alone
            return index is None and (known.differs(id) or name != known.name)
        if name == known.name:
            return index is None and (known.differs(id) or not known.id)
        # Its name goes on, or it has no arguments.
        is_bare = index is None and not id and not known.id
        is_settled = known.name in self._names and (is_bare or known.differs(id))
        return is_settled or not any(one.startswith(known.with_more(name)) for one in self._names)


def leaked(text: str, variant: Variant, *, thinking: bool) -> Sequence[Known]:
    """The calls that an output holds in K2's own markers."""
    message = parse(text, tools=None, variant=variant, thinking=thinking)
    return [(call.function.name, _read(call.function.arguments)) for call in message.tool_calls]


def _read(arguments: str) -> Any:
    """What the arguments say, however they are written; as they stand where they are no JSON."""
    try:
        return json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments
