"""What comes next in a JSON text that is followed through a schema: what must, and a short way to its end."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import reduce
from itertools import islice

from abruzzi.guide.examples import examples, names
from abruzzi.guide.json_reader import JsonReader
from abruzzi.guide.node import Schema
from abruzzi.guide.strings import common_prefix
from abruzzi.guide.threads import Thread, has_value, may_come, may_end, may_go_on, names_left, names_needed

# Steps that the reader refuses, as the whole is asked in the end, before there is no way.
_MAX_REFUSED = 50
# The samples that the shortest is taken of.
_SAMPLES = 4
# How many containers are open, and how many characters are written: held ones that are dropped are none.
_Place = tuple[int, int]
_Step = tuple[_Place, str]
_OPENING = {"string": '"', "object": "{", "array": "[", "null": "null"}


class Matcher(JsonReader):
    """A reader that knows how to go on. What it returns is not taken: feed it."""

    def __init__(self, schema: Schema, check: Callable[[str], str | None]) -> None:
        super().__init__(schema, check)
        self._made: _Step | None = None  # the step that was made last, until it is known what became of it
        self._refused: _Step | None = None  # the last step, where the reader refused it
        self._refusals = 0
        self._forced_at: set[_Place] = set()  # where text was forced that may be held yet
        self._barred: _Place | None = None  # where what began with forced text was refused

    def feed(self, text: str) -> str:
        sure = super().feed(text)
        if self.fault is None:
            self._made = None  # it stands, whatever becomes of what an engine writes behind it
        return sure

    def recover(self) -> None:
        if self.fault is not None:
            if self._made is not None and self._data == self._made[1]:
                self._refused = self._made
                self._refusals += 1
            if (place := self._place()) in self._forced_at:
                self._barred = place
        self._made = None
        super().recover()

    def _place(self) -> _Place:
        return len(self._stack), self._outlet.written

    def forced(self) -> str:
        """What every valid text goes on with from here, white space aside, as far as that is seen at once; "" where
        there is a choice, and where it was refused just now. Where an object or array can't end yet, that is its next
        member or item."""
        text = self._forced()
        place = self._place()
        if text and place == self._barred:
            return ""
        if not self._marks:  # nothing goes back behind what is out
            self._forced_at.clear()
        if text:
            self._forced_at.add(place)
        return text

    def _forced(self) -> str:
        reader = self._reader
        if self._partial and reader != self._behind_value:
            return ""  # in an escape
        if reader == self._value:
            return _forced_value(self._threads)
        if reader == self._colon:
            return ": "
        if reader == self._in_word:
            return self._word[self._word_at :]
        if reader in (self._in_string, self._in_key):
            return self._forced_characters()
        if reader in (self._first_key, self._next_key, self._first_item, self._behind_value):
            return self._forced_member()
        return ""

    def _forced_characters(self) -> str:
        strands = self._string.strands
        ends = [word for strand in strands if strand.words is not None for word in strand.words.ends]
        if not ends or any(strand.words is None for strand in strands):
            return ""
        common = reduce(common_prefix, ends)
        rest = json.dumps(common[self._string.length :], ensure_ascii=False)[1:-1]
        return rest + ('"' if all(word == common for word in ends) else "")

    def _forced_member(self) -> str:
        container = self._stack[-1]
        begun = self._reader in (self._first_key, self._first_item)
        behind_comma = self._reader == self._next_key or bool(self._partial)
        ends = not behind_comma and any(may_end(thread.option, container) for thread in container.threads)
        going_on = [thread for thread in container.threads if may_go_on(thread.option, container)]
        if ends:
            return "" if going_on else "}" if container.is_object else "]"
        comma = "" if begun or behind_comma else ", "
        if not container.is_object:
            return comma
        # Names come in any order: which comes next is forced only where one is left, and asked for where one is missed.
        lists = [names_left(thread.option, container) for thread in going_on]
        needed = [names_needed(thread.option, container) for thread in going_on]
        missed = self._reader == self._behind_value or all(names == needed[0] for names in lists)
        if missed and all(one == needed[0] and len(one) == 1 for one in needed):
            return f"{comma}{json.dumps(needed[0][0], ensure_ascii=False)}"
        return f'{comma}"'

    def step(self) -> str:
        """What comes next on a short way to the end. What is held and can't be kept is dropped first. Raises
        LookupError where no way is found.
        """
        self._partial = ""
        while True:
            try:
                step = self._step()
                made = self._place(), step  # what is wrong here may be right further out
                if made == self._refused or self._refusals > _MAX_REFUSED:
                    raise LookupError(f"nothing was found that its schema allows (at {self._path()})")
                self._made, self._refused = made, None
                return step
            except LookupError:
                if not self._marks:
                    raise
                self._drop()

    def _step(self) -> str:
        reader = self._reader
        if reader in (self._in_key, self._next_key) or (reader == self._in_string and self._marked):
            self._drop()
            reader = self._reader
        if reader == self._number:
            self._data, self._from = "", 0
            self._end_number(0)
            if self.fault is not None and self._reader == self._number:
                self._drop()
            self.fault = None
            reader = self._reader
        if reader == self._value:
            return self._sample(self._threads)
        if reader == self._in_string:
            return self._forced_characters() or self._string_end()
        if reader in (self._first_key, self._first_item, self._behind_value):
            return self._step_in_container()
        return self._forced()

    def _step_in_container(self) -> str:
        """The container's end, or its next member's name or item."""
        container = self._stack[-1]
        if any(may_end(thread.option, container) for thread in container.threads):
            return "}" if container.is_object else "]"
        comma = ", " if self._reader == self._behind_value else ""
        if container.is_object:
            return f"{comma}{json.dumps(self._name(), ensure_ascii=False)}"
        return f"{comma}{self._sample(self._items()[0])}"

    def _sample(self, threads: Sequence[Thread]) -> str:
        """A short value."""
        found = (value for thread in threads for value in islice(examples(_Single(thread)), 1))
        samples = [json.dumps(value, ensure_ascii=False) for value in islice(found, _SAMPLES)]
        if not samples:
            raise LookupError(f"no value was found that its schema allows (at {self._path()})")
        return min(samples, key=len)

    def _name(self) -> str:
        """The name of a next member."""
        container = self._stack[-1]
        for thread in container.threads:
            option = thread.option
            for name in names_needed(option, container) or names(option):
                node = option.member(name)
                if node is not None and may_come(option, container, name) and has_value(node):
                    return name
        raise LookupError(f"no member was found that may follow (at {self._path()})")

    def _string_end(self) -> str:
        length = self._string.length
        ends = []
        for strand in self._string.strands:
            if strand.words is not None:
                ends.append(json.dumps(min(strand.words.left, key=len)[length:], ensure_ascii=False)[1:])
            else:
                ends.append("." * (strand.thread.option.length[0] - length) + '"')
        return min(ends, key=len)


class _Single:
    """A thread's option, as a node."""

    def __init__(self, thread: Thread) -> None:
        self.options = [thread.option]
        self.checks = thread.checks


def _forced_value(threads: Sequence[Thread]) -> str:
    values = [thread.option.values for thread in threads]
    if all(value is not None for value in values):
        texts = {json.dumps(value, ensure_ascii=False) for listed in values for value in listed or ()}
        if len(texts) == 1:
            return texts.pop()
    kinds = frozenset().union(*(thread.option.kinds for thread in threads))
    return _OPENING.get(next(iter(kinds)), "") if len(kinds) == 1 else ""
