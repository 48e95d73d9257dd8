"""A JSON text followed through a schema, character by character.

                       ┌───────────────────────────────────────────────────┐
                       v                                                   │
    VALUE ──{──> FIRST KEY ──> KEY ──> COLON ──> VALUE ... its end ──> MEMBER ──,──> NEXT KEY
      │ │                                                                  │
      │ └──[──> FIRST ITEM ──> VALUE ... its end ──> ITEM ──,──> VALUE     └──}──> the object's end
      └────> STRING, NUMBER, WORD

Members may come in any order and with any spacing. What goes out is what some valid text begins with. A value that can
only be judged as a whole (a number, a string with a format, a value with `checks`) is held until it is whole; one that
fails then is dropped, and the text stands where that value was to begin.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from abruzzi.guide.node import Schema
from abruzzi.guide.strings import Strand, StringReader, Words, plain, scan
from abruzzi.guide.text_reader import MAX_SPACE, SHOWN, TextReader, space
from abruzzi.guide.threads import (
    Container,
    Thread,
    has_value,
    may_come,
    may_end,
    may_go_on,
    names_left,
    names_needed,
    threads_of,
)

_number_run = re.compile(r"[0-9eE.+-]*").match
_number_begun = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.(?:[0-9]+(?:[eE][+-]?[0-9]*)?)?|[eE][+-]?[0-9]*)?)?").match
_number_whole = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?").fullmatch
_KINDS = {'"': "string", "{": "object", "[": "array"} | dict.fromkeys("-0123456789", "number")
_WORDS = {"t": ("true", True), "f": ("false", False), "n": ("null", None)}
# More characters than any number needs. What Python and doubles can't hold is refused with it.
_MAX_NUMBER = 300
# A string whose end alone tells whether it is right is cut when it gets longer.
_MAX_HELD = 200_000
# Deeper than any arguments, and no deeper than Python's own reader of JSON gets.
_MAX_DEPTH = 400


class JsonReader(TextReader):
    """Takes a JSON text piece by piece. `check` is asked about the whole before its last character goes out."""

    def __init__(self, schema: Schema, check: Callable[[str], str | None]) -> None:
        super().__init__(self._value, threads_of([schema.arguments]))
        self._check = check
        self._string = StringReader([])
        self._marked = False  # whether the string, number or word is held by itself
        self._unsure = False  # whether an array's first item is held, whatever it is
        self._number_text = ""
        self._word, self._word_at = "", 0
        self.whole = False

    def recover(self) -> None:
        super().recover()
        if self._reader == self._in_key and not self._string.length:
            self._drop()  # no name began here

    @property
    def may_begin_object(self) -> bool:
        """Whether an object may begin here."""
        if self._reader not in (self._value, self._first_item):
            return False
        threads = self._threads if self._reader == self._value else self._items()[0]
        return any("object" in thread.option.kinds for thread in threads)

    # Values

    def _value(self, text: str, at: int) -> int:
        at = self._skip_space(text, at)
        if at == len(text) or self.fault:
            return at
        character = text[at]
        if word := _WORDS.get(character):
            threads = [thread for thread in self._threads if thread.option.takes_scalar(word[1])]
            kind = "word"
        else:
            kind = _KINDS.get(character, "")
            threads = [thread for thread in self._threads if kind in thread.option.kinds]
        if not threads:
            return self._break(at, _told(self._threads))
        marked = (
            self._unsure
            or kind == "number"
            or any(thread.checks for thread in threads)
            or (kind == "string" and any(thread.option.text is not None for thread in threads))
        )
        if kind in ("object", "array") and len(self._stack) >= _MAX_DEPTH:
            return self._break(at, f"values at most {_MAX_DEPTH} deep")
        if marked:
            first = bool(self._stack) and not self._stack[-1].is_object and self._stack[-1].count == 0
            self._mark(at, self._first_item if first else self._value, self._threads)
        if kind == "object" or kind == "array":
            self._stack.append(Container(threads, is_object=kind == "object", marked=marked))
            self._reader = self._first_key if kind == "object" else self._first_item
            return at + 1
        self._threads, self._marked = threads, marked
        if kind == "string":
            self._string = StringReader.of_values(threads)
            self._reader = self._in_string
            return at + 1
        if kind == "number":
            self._number_text = ""
            self._reader = self._number
        else:
            self._word, self._word_at = word[0], 0  # type: ignore[index]
            self._reader = self._in_word
        return at

    def _end_value(self, at: int, threads: list[Thread], marked: bool) -> int:
        """A value ended before `at`, and these of its threads may be it."""
        if marked:
            if any(thread.checks for thread in threads):
                self._put(at)
                found = self._outlet.marked
                try:
                    value = json.loads(found)
                except RecursionError:
                    return self._fail(at, "a value that can be read", found)
                threads = [thread for thread in threads if all(check.is_valid(value) for check in thread.checks)]
                if not threads:
                    return self._fail(at, "a value that its schema allows", found)
            self._release(at)
        if not self._stack:
            self.whole, self._reader = True, self._behind
            return at
        container = self._stack[-1]
        if len(container.threads) > 1:
            alive = {parent for thread in threads for parent in thread.parents}
            container.threads = [thread for i, thread in enumerate(container.threads) if i in alive]
        container.count += 1
        if container.is_object:
            container.names[container.key] = None
        if container.holds_entry:
            container.holds_entry = False
            self._release(at)
        self._reader = self._behind_value
        return at

    def _behind(self, text: str, at: int) -> int:
        at = self._skip_space(text, at)
        return at if at == len(text) or self.fault else self._break(at, "the end of the arguments")

    def _behind_value(self, text: str, at: int) -> int:
        """A comma, or the container's end."""
        at = self._skip_space(text, at)
        if at == len(text) or self.fault:
            return at
        container = self._stack[-1]
        if text[at] == ",":
            if not any(may_go_on(thread.option, container) for thread in container.threads):
                return self._break(at, "}" if container.is_object else "]")
            # A comma goes out with what follows it: one before a closing bracket is none.
            ahead = space(text, at + 1).end()  # type: ignore[union-attr]  # it matches the empty string, too
            if ahead == len(text) and ahead - at <= MAX_SPACE:
                self._partial = text[at:]
                return at
            follows = text[ahead : ahead + 1]
            if follows != '"' if container.is_object else follows not in _KINDS and follows not in _WORDS:
                return self._break(at, "}" if container.is_object else "]")
            if container.is_object:
                self._hold_name(at)
                self._reader = self._next_key
            else:
                self._threads, known = self._items()
                if not known:
                    self._mark(at, self._behind_value, [])
                    container.holds_entry = True
                self._reader = self._value
            return at + 1
        return self._end_container(text, at)

    def _end_container(self, text: str, at: int) -> int:
        container = self._stack[-1]
        end = "}" if container.is_object else "]"
        if text[at] != end:
            return self._break(at, f", or {end}")
        threads = [thread for thread in container.threads if may_end(thread.option, container)]
        if not threads:
            return self._break(at, self._missing(container))
        if len(self._stack) == 1:
            self._put(at)
            if fault := self._check(f"{self._outlet}{end}"):
                if container.marked:
                    return self._fail(at, "arguments that their schema allows", fault)
                self.fault = fault
                return at
        self._stack.pop()
        return self._end_value(at + 1, threads, container.marked)

    def _missing(self, container: Container) -> str:
        if not container.is_object:
            return "more items"
        missing = names_needed(container.threads[0].option, container)
        return f"the member {missing[0]!r}" if missing else "more members"

    # Objects and arrays

    def _first_key(self, text: str, at: int) -> int:
        at = self._skip_space(text, at)
        if at == len(text) or self.fault:
            return at
        return self._end_container(text, at) if text[at] == "}" else self._next_key(text, at)

    def _next_key(self, text: str, at: int) -> int:
        at = self._skip_space(text, at)
        if at == len(text) or self.fault:
            return at
        container = self._stack[-1]
        strands = []
        for thread in container.threads:
            if may_go_on(thread.option, container):
                names = names_left(thread.option, container)
                strands.append(Strand(thread, None if names is None else Words(names), (), None))
        if text[at] != '"' or not strands:
            return self._break(at, "a member's name" if strands else "}")
        if self._reader == self._first_key:
            self._hold_name(at)
        # A name is read like a string that is one of some words.
        self._string = StringReader(strands)
        self._reader = self._in_key
        return at + 1

    def _hold_name(self, at: int) -> None:
        """A name goes out when it is whole, and the comma before it with it: one that was there before is dropped."""
        self._mark(at, self._reader, [])
        self._marked = True

    def _in_key(self, text: str, at: int) -> int:
        if text[at] != '"':
            return self._characters(text, at)
        container, name = self._stack[-1], self._string.text
        allowed = {
            id(strand.thread)
            for strand in self._string.strands
            if (strand.words is None or strand.words.is_whole) and may_come(strand.thread.option, container, name)
        }
        nodes = [thread.option.member(name) if id(thread) in allowed else None for thread in container.threads]
        threads = threads_of(nodes)
        if not threads:
            expected = "another name than before" if name in container.names else "the name of a member"
            return self._fail(at + 1, expected, name)
        container.key, self._threads = name, threads
        self._reader = self._colon
        if all(name in one.option.required for one in container.threads) or any(map(has_value, filter(None, nodes))):
            self._release(at + 1)
        else:  # where nothing fits the name mustn't be there
            container.holds_entry = True
        return at + 1

    def _colon(self, text: str, at: int) -> int:
        at = self._skip_space(text, at)
        if at == len(text) or self.fault:
            return at
        if text[at] != ":":
            return self._break(at, ":")
        self._reader = self._value
        return at + 1

    def _first_item(self, text: str, at: int) -> int:
        at = self._skip_space(text, at)
        if at == len(text) or self.fault:
            return at
        if text[at] == "]":
            return self._end_container(text, at)
        self._threads, known = self._items()
        if not self._threads:
            return self._break(at, "]")
        self._unsure = not known
        at = self._value(text, at)
        self._unsure = False
        return at

    def _items(self) -> tuple[list[Thread], bool]:
        """The threads of the next item, and whether it must come or a value of it is known."""
        container = self._stack[-1]
        options = [thread.option for thread in container.threads]
        nodes = [one.item(container.count) if may_go_on(one, container) else None for one in options]
        known = all(container.count < one.count[0] for one in options) or any(map(has_value, filter(None, nodes)))
        return threads_of(nodes), known

    # Strings, numbers and words

    def _in_string(self, text: str, at: int) -> int:
        if self._string.is_free:
            at = plain(text, at).end()  # type: ignore[union-attr]  # it matches the empty string, too
            if at == len(text):
                return at
        if text[at] != '"':
            return self._characters(text, at)
        threads = self._string.whole()
        if threads and self._marked:
            value = self._string.text
            right = [thread for thread in threads if thread.option.text is None or thread.option.text.accepts(value)]
            if not right:
                return self._fail(at + 1, "a string that its schema allows", json.dumps(value))
            threads = right
        if not threads:
            return self._break(at, "more of the string")
        return self._end_value(at + 1, threads, self._marked)

    def _characters(self, text: str, at: int) -> int:
        """Some of a string's characters."""
        scanned = scan(text, at)
        if scanned is None:
            return self._break(at, "a character of a string")
        characters, end = scanned
        if not characters:
            self._partial = text[at:]
            return at
        if self._string.is_free:
            return end
        taken = self._string.take(characters, _MAX_HELD if self._marked else None)
        if taken == len(characters):
            return end
        return self._break(at + taken if text[at] != "\\" else at, "what the string may go on with")

    def _number(self, text: str, at: int) -> int:
        run = _number_run(text, at).end()  # type: ignore[union-attr]  # it matches the empty string, too
        digits = self._number_text + text[at:run]
        end = _number_begun(digits).end()  # type: ignore[union-attr]
        if end > _MAX_NUMBER:
            return self._fail(run - len(digits) + _MAX_NUMBER, f"a number of at most {_MAX_NUMBER} characters", digits)
        if end < len(digits):  # such as 007
            return self._fail(run - len(digits) + end, "a number", digits)
        self._number_text = digits
        return run if run == len(text) else self._end_number(run)

    def _end_number(self, at: int) -> int:
        text = self._number_text
        if not _number_whole(text):
            return self._break(at, "more of a number")
        value = json.loads(text)
        threads = [thread for thread in self._threads if thread.option.takes_scalar(value)]
        if not threads or value in (float("inf"), float("-inf")):
            return self._fail(at, _told(self._threads), text)
        return self._end_value(at, threads, self._marked)

    def _in_word(self, text: str, at: int) -> int:
        while at < len(text) and self._word_at < len(self._word):
            if text[at] != self._word[self._word_at]:
                return self._break(at, self._word)
            at += 1
            self._word_at += 1
        return self._end_value(at, self._threads, self._marked) if self._word_at == len(self._word) else at


def _told(threads: Sequence[Thread]) -> str:
    """What is expected, in words."""
    values = [value for thread in threads for value in thread.option.values or ()]
    if values and all(thread.option.values is not None for thread in threads):
        return "one of " + ", ".join(json.dumps(value, ensure_ascii=False)[:SHOWN] for value in values[:8])
    kinds = sorted(frozenset().union(*(thread.option.kinds for thread in threads)))
    return " or ".join(kinds) + " that its schema allows"
