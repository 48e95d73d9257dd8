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
from typing import NamedTuple

from abruzzi.guide.node import Schema
from abruzzi.guide.pattern import Following
from abruzzi.guide.threads import Container, Thread, may_come, may_end, may_go_on, names_left, names_needed, threads_of
from abruzzi.protocol.text import Text

Reader = Callable[[str, int], int]

_space = re.compile(r"[ \t\n\r]*").match
_plain = re.compile(r'[^"\\\x00-\x1f]*').match
_escape = re.compile(
    r'\\(?:["\\/bfnrt]|u(?:[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?![dD][89a-fA-F])[0-9a-fA-F]{4}))'
).match
# The head of an escape whose rest has not come.
_escape_begun = re.compile(
    r"\\(?:u(?:[0-9a-fA-F]{0,3}|[dD][89abAB][0-9a-fA-F]{2}(?:\\(?:u(?:[dD](?:[c-fC-F][0-9a-fA-F]?)?)?)?)?)?)?\Z"
).match
_number_run = re.compile(r"[0-9eE.+-]*").match
_number_begun = re.compile(r"-?(?:(?:0|[1-9][0-9]*)(?:\.(?:[0-9]+(?:[eE][+-]?[0-9]*)?)?|[eE][+-]?[0-9]*)?)?").match
_number_whole = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?").fullmatch
_KINDS = {'"': "string", "{": "object", "[": "array"} | dict.fromkeys("-0123456789", "number")
_WORDS = {"t": ("true", True), "f": ("false", False), "n": ("null", None)}
# More white space than any pretty-printer writes: a model that lost its way writes it for ever (failure 55).
_MAX_SPACE = 500
# More characters than any number needs. What Python and doubles can't hold is refused with it.
_MAX_NUMBER = 300
# A string whose end alone tells whether it is right is cut when it gets longer.
_MAX_HELD = 200_000
# Deeper than any arguments, and no deeper than Python's own reader of JSON gets.
_MAX_DEPTH = 400
_SHOWN = 40


class _Mark(NamedTuple):
    """Where a held value begins: how much was held before, and what was expected there."""

    held: int
    depth: int
    reader: Reader
    threads: list[Thread]


class JsonReader:
    """Takes a JSON text piece by piece; `feed` returns what may go out by now.

    `check` is asked about the whole text before its last character goes out. `fault` says what is wrong with the first
    character that can't stand; `recover` goes on from before it.
    """

    def __init__(self, schema: Schema, check: Callable[[str], str | None]) -> None:
        self._check = check
        self._reader: Reader = self._value
        self._threads = threads_of(schema.arguments, (0,))
        self._stack: list[Container] = []
        self._marks: list[_Mark] = []
        self._held: list[str] = []
        self._held_length = 0
        self._out: list[str] = []
        self._all = Text()
        self._data, self._from = "", 0
        self._partial = ""  # the head of an escape, or a comma
        self._spaces = 0
        self._followed: list[tuple[Thread, list[str] | None, list[Following]]] = []  # a string's threads
        self._free = False  # nothing is asked of the string
        self._string: list[str] = []
        self._string_length = 0
        self._marked = False  # whether the string, number or word is held by itself
        self._number_text = ""
        self._word, self._word_at = "", 0
        self.fault: str | None = None
        self.whole = False

    # Taking text

    def feed(self, text: str) -> str:
        """Take the next piece; returns what is sure to stand, some of which may have come before."""
        data = self._data = self._partial + text if self._partial else text
        self._partial, self._from = "", 0
        at, end = 0, len(data)
        while at < end and self.fault is None and not self._partial:
            at = self._reader(data, at)
        self._put(at)
        if not self._out:
            return ""
        sure = "".join(self._out)
        self._out.clear()
        self._all.add(sure)
        return sure

    @property
    def pending(self) -> str:
        """What is held: it may stand so far."""
        return "".join(self._held)

    @property
    def held(self) -> int:
        """How many characters are held."""
        return self._held_length

    @property
    def text(self) -> str:
        """All that went out."""
        return str(self._all)

    def recover(self) -> None:
        """Go on from before the fault."""
        self.fault, self._partial, self._spaces = None, "", 0
        if self._reader == self._in_key and not self._string:
            self._drop()  # no name began here

    def _put(self, at: int) -> None:
        """What was read up to `at` goes out, or is held."""
        piece = self._data[self._from : at]
        self._from = max(at, self._from)
        if not piece:
            return
        if self._marks:
            self._held.append(piece)
            self._held_length += len(piece)
        else:
            self._out.append(piece)

    def _mark(self, at: int, reader: Reader, threads: list[Thread]) -> None:
        self._put(at)
        self._marks.append(_Mark(self._held_length, len(self._stack), reader, threads))

    def _release(self, at: int) -> None:
        """The value of the last mark stands."""
        self._put(at)
        self._marks.pop()
        if not self._marks:
            self._out += self._held
            self._held, self._held_length = [], 0

    def _drop(self) -> None:
        """Back to where the last mark's value was to begin."""
        mark = self._marks.pop()
        held = self.pending
        self._held = [held[: mark.held]] if mark.held else []
        self._held_length = mark.held
        del self._stack[mark.depth :]
        self._reader, self._threads = mark.reader, mark.threads
        self._partial = ""

    def _break(self, at: int, expected: str) -> int:
        found = self._data[at : at + _SHOWN]
        self.fault = f"expected {expected}, got {found!r} (at {self._path()})"
        return at

    def _fail(self, at: int, expected: str, found: str) -> int:
        """The held value is whole and wrong."""
        self._put(at)
        self._drop()
        self.fault = f"expected {expected}, got {found[:_SHOWN]} (at {self._path()})"
        return at

    def _path(self) -> str:
        steps = (f".{one.key}" if one.is_object else f"[{one.count}]" for one in self._stack)
        return "$" + "".join(steps)

    def _skip_space(self, text: str, at: int) -> int:
        end = _space(text, at).end()  # type: ignore[union-attr]  # it matches the empty string, too
        self._spaces += end - at
        if self._spaces > _MAX_SPACE:
            return self._break(end - (self._spaces - _MAX_SPACE), f"at most {_MAX_SPACE} characters of white space")
        if end < len(text):
            self._spaces = 0
        return end

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
            kind == "number"
            or any(thread.checks for thread in threads)
            or (kind == "string" and any(thread.option.text is not None for thread in threads))
        )
        if kind in ("object", "array") and len(self._stack) >= _MAX_DEPTH:
            return self._break(at, f"values at most {_MAX_DEPTH} deep")
        if marked:
            self._mark(at, self._value, self._threads)
        if kind == "object" or kind == "array":
            self._stack.append(Container(threads, is_object=kind == "object", marked=marked))
            self._reader = self._first_key if kind == "object" else self._first_item
            return at + 1
        self._threads, self._marked = threads, marked
        if kind == "string":
            self._begin_string()
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
                found = self.pending[self._marks[-1].held :]
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
            container.names.add(container.key)
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
            threads = [thread for thread in container.threads if may_go_on(thread.option, container)]
            if not threads:
                return self._break(at, "}" if container.is_object else "]")
            # A comma goes out with what follows it: one before a closing bracket is none.
            ahead = _space(text, at + 1).end()  # type: ignore[union-attr]  # it matches the empty string, too
            if ahead == len(text) and ahead - at <= _MAX_SPACE:
                self._partial = text[at:]
                return at
            follows = text[ahead : ahead + 1]
            if follows != '"' if container.is_object else follows not in _KINDS and follows not in _WORDS:
                return self._break(at, "}" if container.is_object else "]")
            if container.is_object:
                self._hold_name(at)
                self._reader = self._next_key
            else:
                self._keep(threads)
                self._begin_item()
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
            whole = f"{self._all}{''.join(self._out)}{self.pending}{end}"
            if fault := self._check(whole):
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

    def _keep(self, threads: list[Thread]) -> None:
        """Of the threads of the container that is open, only these go on."""
        self._stack[-1].threads = threads

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
        threads = [thread for thread in container.threads if may_go_on(thread.option, container)]
        if text[at] != '"' or not threads:
            return self._break(at, "a member's name" if threads else "}")
        if self._reader == self._first_key:
            self._hold_name(at)
        # A name is read like a string that is one of some words.
        self._threads, self._free = threads, False
        self._followed = [(thread, names_left(thread.option, container), []) for thread in threads]
        self._string, self._string_length = [], 0
        self._reader = self._in_key
        return at + 1

    def _hold_name(self, at: int) -> None:
        """A name goes out when it is whole, and the comma before it with it: one that was there before is dropped."""
        self._mark(at, self._reader, [])
        self._marked = True

    def _in_key(self, text: str, at: int) -> int:
        if text[at] != '"':
            return self._characters(text, at)
        container = self._stack[-1]
        name = "".join(self._string)
        children: list[Thread] = []
        threads: list[Thread] = []
        for thread, words, _ in self._followed:
            node = thread.option.member(name)
            if node is not None and (words is None or name in words) and may_come(thread.option, container, name):
                children += threads_of(node, (len(threads),))
                threads.append(thread)
        if not children:
            expected = "another name than before" if name in container.names else "the name of a member"
            if self._marked:
                return self._fail(at + 1, expected, name)
            return self._break(at, expected)
        self._keep(threads)
        container.key, self._threads = name, children
        self._reader = self._colon
        if self._marked:
            self._release(at + 1)
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
        container = self._stack[-1]
        threads = [thread for thread in container.threads if may_go_on(thread.option, container)]
        if not threads:
            return self._break(at, "]")
        self._keep(threads)
        self._begin_item()
        return at

    def _begin_item(self) -> None:
        self._threads = self._item_threads()
        self._reader = self._value

    def _item_threads(self) -> list[Thread]:
        container = self._stack[-1]
        items = [thread.option.item(container.count) for thread in container.threads]
        return [one for i, node in enumerate(items) if node is not None for one in threads_of(node, (i,))]

    # Strings, numbers and words

    def _begin_string(self) -> None:
        self._followed = []
        for thread in self._threads:
            rule = thread.option.text
            follow = [pattern.follow() for pattern in rule.patterns] if rule is not None else []
            self._followed.append((thread, thread.option.words, follow))
        self._free = all(
            words is None and thread.option.text is None and thread.option.length == (0, None)
            for thread, words, _ in self._followed
        )
        self._string, self._string_length = [], 0

    def _in_string(self, text: str, at: int) -> int:
        if text[at] != '"':
            return self._characters(text, at)
        threads = [thread for thread, words, _ in self._followed if self._may_be_whole(thread, words)]
        if threads and self._marked:
            value = "".join(self._string)
            right = [thread for thread in threads if thread.option.text is None or thread.option.text.accepts(value)]
            if not right:
                return self._fail(at + 1, "a string that its schema allows", json.dumps(value))
            threads = right
        if not threads:
            return self._break(at, "more of the string")
        return self._end_value(at + 1, threads, self._marked)

    def _may_be_whole(self, thread: Thread, words: list[str] | None) -> bool:
        if words is not None:
            return "".join(self._string) in words
        return self._string_length >= thread.option.length[0]

    def _characters(self, text: str, at: int) -> int:
        """Some of a string's characters; an escape counts as the one that it stands for."""
        end = _plain(text, at).end()  # type: ignore[union-attr]  # it matches the empty string, too
        if end > at:
            characters = text[at:end]
        elif found := _escape(text, at):
            characters, end = json.loads(f'"{found[0]}"'), found.end()
        elif _escape_begun(text, at):
            self._partial = text[at:]
            return at
        else:
            return self._break(at, "a character of a string")
        if self._free:
            return end
        taken = self._take(characters)
        if taken == len(characters):
            return end
        return self._break(at + taken if text[at] != "\\" else at, "what the string may go on with")

    def _take(self, characters: str) -> int:
        """Take what some of the threads have next; returns how many characters that is."""
        fits = [self._fits(thread, words, follow, characters) for thread, words, follow in self._followed]
        taken = max(fits)
        if self._marked and self._string_length > _MAX_HELD:
            taken = 0
        characters = characters[:taken]
        going_on = []
        for (thread, words, follow), fit in zip(self._followed, fits, strict=True):
            if fit >= taken:
                for one in follow:
                    one.take(characters)
                if words is not None:
                    begin = self._string_length
                    words = [word for word in words if word.startswith(characters, begin)]
                going_on.append((thread, words, follow))
        self._followed = going_on
        self._string.append(characters)
        self._string_length += taken
        return taken

    def _fits(self, thread: Thread, words: list[str] | None, follow: Sequence[Following], characters: str) -> int:
        if words is not None:
            begin = self._string_length
            end = begin + len(characters)
            return max((len(common_prefix(word[begin:end], characters)) for word in words), default=0)
        fit = len(characters)
        if self._reader != self._in_key and (most := thread.option.length[1]) is not None:
            fit = min(fit, most - self._string_length)
        for one in follow:
            fit = min(fit, one.fits(characters[:fit]))
        return fit

    def _number(self, text: str, at: int) -> int:
        run = _number_run(text, at).end()  # type: ignore[union-attr]  # it matches the empty string, too
        digits = self._number_text + text[at:run]
        end = _number_begun(digits).end()  # type: ignore[union-attr]
        if end > _MAX_NUMBER:
            return self._fail(at, f"a number of at most {_MAX_NUMBER} characters", digits)
        if end < len(digits):  # such as 007
            return self._fail(run, "a number", digits)
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


def common_prefix(one: str, other: str) -> str:
    """What both begin with."""
    for at, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return one[:at]
    return min(one, other, key=len)


def _told(threads: Sequence[Thread]) -> str:
    """What is expected, in words."""
    values = [value for thread in threads for value in thread.option.values or ()]
    if values and all(thread.option.values is not None for thread in threads):
        return "one of " + ", ".join(json.dumps(value, ensure_ascii=False)[:_SHOWN] for value in values[:8])
    kinds = sorted(frozenset().union(*(thread.option.kinds for thread in threads)))
    return " or ".join(kinds) + " that its schema allows"
