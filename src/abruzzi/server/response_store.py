"""Responses that are kept for `previous_response_id`, for references to their items, and to be looked up.

They are kept in memory, as JSON, up to a number and a size; what wasn't used for the longest time goes first. A server
that is started anew knows none.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from abruzzi.server.refusals import Refusal

Item = dict[str, Any]

_MAX_ENTRIES = 4096
_MAX_BYTES = 256 << 20


class ResponseNotFound(Refusal):
    """No response with this id is kept, or not any more."""

    status = 404
    code = "response_not_found"


class PreviousNotFound(Refusal):
    """No response with this id is kept that could be gone on from. OpenAI has a 400 for it."""

    code = "previous_response_not_found"


@dataclass(slots=True, eq=False)
class Stored:
    """A response as JSON, what it was an answer to, and the one it went on from."""

    id: str
    response: bytes
    input: bytes
    previous: Stored | None = None
    item_ids: Sequence[str] = ()
    """Of the items that may be referred to: those that got their ids from us."""
    owner: bytes | None = None
    """The digest of the key that it was made with: for holders of others it isn't there."""
    holders: int = field(default=0, repr=False)
    """How many hold it in memory: the store, and responses held in memory that went on from it."""

    @property
    def size(self) -> int:
        return len(self.response) + len(self.input)

    def items(self) -> list[Item]:
        """The conversation up to and with this response."""
        turns: list[list[Item]] = []
        turn: Stored | None = self
        while turn is not None:
            turns.append([*turn.own_input(), *msgspec.json.decode(turn.response)["output"]])
            turn = turn.previous
        return [item for items in reversed(turns) for item in items]

    def own_input(self) -> list[Item]:
        """The items of the request itself."""
        items: list[Item] = msgspec.json.decode(self.input)
        return items


class ResponseStore:
    """At most `entries` responses and `size` bytes. A response that others went on from counts as long as they do."""

    def __init__(self, entries: int = _MAX_ENTRIES, size: int = _MAX_BYTES) -> None:
        self._most = entries
        self._most_bytes = size
        self._kept: OrderedDict[str, Stored] = OrderedDict()
        self._holding: dict[str, Stored] = {}  # which of them holds the item with an id
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def add(
        self,
        response: Mapping[str, Any],
        items: Sequence[Item],
        previous: Stored | None,
        made: set[str],
        owner: bytes | None = None,
    ) -> None:
        """Keep a response and the items it answers; `made`: the ids of those that may be referred to. `owner`: the
        digest of the key that it was made with.
        """
        ids = (*made, *(item["id"] for item in response["output"]))
        encode = msgspec.json.encode
        stored = Stored(str(response["id"]), encode(response), encode(items), previous, ids, owner)
        if _whole_size(stored) > self._most_bytes:
            return  # it would push out all others, and itself
        self._kept[stored.id] = stored
        self._hold(stored)
        while len(self._kept) > self._most or self.bytes > self._most_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._release(oldest)

    def get(self, id: str, owner: bytes | None = None) -> Stored:
        """Raises ResponseNotFound, also for one of another owner's."""
        stored = self._kept.get(id)
        if stored is None or stored.owner != owner:
            raise ResponseNotFound(f"response {id[:200]!r} is not kept here")
        with contextlib.suppress(KeyError):  # asked for in a thread, it may just have given way
            self._kept.move_to_end(id)
        return stored

    def previous(self, id: str, owner: bytes | None = None) -> Stored:
        """The one to go on from. Raises PreviousNotFound."""
        try:
            return self.get(id, owner)
        except ResponseNotFound:
            reason = f"Previous response with id {id[:200]!r} not found: it was not stored, or gave way to newer ones"
            raise PreviousNotFound(reason, "previous_response_id") from None

    def delete(self, id: str, owner: bytes | None = None) -> None:
        """Raises ResponseNotFound."""
        self._release(self.get(id, owner))
        del self._kept[id]

    def item(self, id: str, owner: bytes | None = None) -> Item | None:
        """The item with this id, of one of the owner's responses in memory."""
        stored = self._holding.get(id)
        if stored is None or stored.owner != owner:
            return None
        items = [*stored.own_input(), *msgspec.json.decode(stored.response)["output"]]
        return next((item for item in items if item["id"] == id), None)

    def _hold(self, stored: Stored | None) -> None:
        while stored is not None:
            stored.holders += 1
            if stored.holders > 1:
                return
            self.bytes += stored.size
            self._holding.update(dict.fromkeys(stored.item_ids, stored))
            stored = stored.previous

    def _release(self, stored: Stored | None) -> None:
        while stored is not None:
            stored.holders -= 1
            if stored.holders:
                return
            self.bytes -= stored.size
            for id in stored.item_ids:
                self._holding.pop(id, None)
            stored = stored.previous


def _whole_size(stored: Stored) -> int:
    size = 0
    turn: Stored | None = stored
    while turn is not None:
        size += turn.size
        turn = turn.previous
    return size
