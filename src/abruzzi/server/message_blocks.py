"""The conversation of Anthropic's API, messages of content blocks, as the turns that the model reads.

| block | in a message of | becomes |
|---|---|---|
| `text` | any role | the message's content, with nothing between several, as K2's own template has it |
| `thinking` | assistant | its `reasoning_content` |
| `redacted_thinking` | assistant | nothing: no one here can read it |
| `tool_use` | assistant | one of its calls; an id may have any shape |
| `tool_result` | user | a message of role `tool`, before the user's text |
| `document`, `search_result` | user, or in a `tool_result` | words: its title, then its text |
| `tool_reference` | in a `tool_result` | words; the tool is shown from then on, though it be deferred |

Messages of one role in a row are one turn, with an empty line between their texts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from abruzzi.protocol.errors import RequestError
from abruzzi.protocol.messages import Function, Message, Role, ToolCall
from abruzzi.server.dialect import Fields

_ROLES: Mapping[str, Role] = {"user": "user", "assistant": "assistant", "system": "system"}
_BLOCKS: Mapping[str, Sequence[str]] = {
    "user": ("text", "document", "search_result", "tool_result"),
    "assistant": ("text", "thinking", "redacted_thinking", "tool_use"),
    "system": ("text",),
    "tool": ("text", "document", "search_result", "tool_reference"),
}
# Claude Code begins its system prompt with this, for Anthropic's accounts. It has another hash in every request, so
# that nothing behind it could be taken from an engine's cache (https://github.com/vllm-project/vllm/pull/36829).
_BILLING = re.compile(r"\Ax-anthropic-billing-header:[^\n]*\n?")


def system_text(fields: Fields) -> str:
    """The body's `system`; empty where there is none."""
    value = fields.value.get("system")
    blocks = () if value is None else _blocks(value, fields.at("system"))
    return "".join(_BILLING.sub("", one.text) for one in blocks)


@dataclass(frozen=True, slots=True)
class Conversation:
    messages: Sequence[Message]
    loaded: Set[str]
    """The names of the tools that a search has found."""
    begun: Message | None = None
    """What is written already of the answer: the last message, where it is the assistant's and calls no tool."""


def conversation(fields: Fields, *, answers: bool) -> Conversation:
    """The body's `messages`; `answers`: the model is to answer them. Raises RequestError, with the path of the fault,
    also for a result that answers no call.
    """
    values = fields.list("messages")
    if not values:
        raise RequestError("expected at least one message, got none", "messages")
    turns: list[_Turn] = []
    seen = _Seen()
    for i, value in enumerate(values):
        where = f"messages[{i}]"
        role = _role(value, where)
        if not turns or turns[-1].role != role or role == "system":
            turns.append(_Turn(role, seen))
        turns[-1].add(value.get("content"), f"{where}.content")
    begun = turns.pop() if turns[-1].role == "assistant" and (not turns[-1].calls or answers) else None
    messages = [message for turn in turns for message in turn.messages()]
    if begun is None:
        return Conversation(messages, seen.loaded)
    if answers:
        _check_begun(begun, where)
    return Conversation(messages, seen.loaded, next(begun.messages()))


def _check_begun(turn: _Turn, where: str) -> None:
    """Raises RequestError for what no answer can go on from."""
    if turn.calls:
        raise RequestError("expected the results of its calls behind a message with tool_use", where)
    text = turn.texts[-1]
    if not text:
        raise RequestError("expected text for the answer to go on from, got none", f"{where}.content")
    if text[-1].isspace():  # a word begins with its blank, so that no word would come as it should
        raise RequestError(
            "expected text that ends in no white space, for the answer to go on from", f"{where}.content"
        )


@dataclass(slots=True)
class _Seen:
    """What the conversation has held so far."""

    called: set[str] = field(default_factory=set)
    """The ids of its calls."""
    loaded: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Turn:
    """What several messages of one role say."""

    role: Role
    seen: _Seen
    texts: list[str] = field(default_factory=list)
    """One for each message."""
    thoughts: list[str] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    results: list[Message] = field(default_factory=list)

    def add(self, content: Any, where: str) -> None:
        """One more message."""
        texts: list[str] = []
        for block in _blocks(content, where, self.role):
            match block.kind:
                case "text" | "document" | "search_result":
                    texts.append(block.text)
                case "thinking":
                    self.thoughts.append(block.string("thinking"))
                case "tool_use":
                    self.calls.append(_call(block))
                    self.seen.called.add(self.calls[-1].id)
                case "tool_result":
                    self.results.append(_result(block, self.seen))
        self.texts.append("".join(texts))

    def messages(self) -> Iterator[Message]:
        yield from self.results
        text = "\n\n".join(filter(None, self.texts))
        if self.role == "assistant":
            yield Message("assistant", text or None, "".join(self.thoughts) or None, tuple(self.calls))
        elif text or not self.results:
            yield Message(self.role, text)


@dataclass(frozen=True, slots=True)
class _Block:
    kind: str
    fields: Fields

    @property
    def text(self) -> str:
        """What the model reads of a block that is all text."""
        match self.kind:
            case "document":
                told = ("title", "context")
                text = _source_text(self.fields.object("source"))
            case "search_result":
                told = ("title", "source")
                text = _content_text(self.fields)
            case _:
                return self.string("text")
        head = [f"{key.capitalize()}: {value}" for key in told if (value := self.fields.string(key))]
        return "\n".join((f"<{self.kind}>", *head, *([""] if head else ()), text, f"</{self.kind}>", ""))

    def string(self, key: str, *, empty: bool = True) -> str:
        """A member that must be there."""
        value = self.fields.string(key)
        if value is None or not (value or empty):
            raise RequestError("expected a string" + ("" if empty else " that isn't empty"), self.fields.at(key))
        return value


def _role(value: Any, where: str) -> Role:
    if not isinstance(value, dict):
        raise RequestError("expected a message, an object", where)
    role = Fields(value, where).string("role")
    if role is None or role not in _ROLES:
        raise RequestError(f"expected user, assistant or system, got {role!r}", f"{where}.role")
    return _ROLES[role]


def _blocks(content: Any, where: str, role: str = "system") -> Iterator[_Block]:
    """The blocks of a content, each of a kind that may stand there."""
    if isinstance(content, str):
        yield _Block("text", Fields({"text": content}, where))
        return
    if not isinstance(content, list):
        raise RequestError("expected a string or a list of content blocks", where)
    for i, value in enumerate(content):
        at = f"{where}[{i}]"
        if not isinstance(value, dict):
            raise RequestError("expected a content block, an object", at)
        fields = Fields(value, at)
        kind = fields.string("type")
        if kind is None or kind not in _BLOCKS[role]:
            reason = ": only text is passed on here" if kind == "image" else ""
            raise RequestError(f"expected a block of type {' or '.join(_BLOCKS[role])}, got {kind!r}{reason}", at)
        yield _Block(kind, fields)


def _content_text(fields: Fields) -> str:
    return "".join(one.text for one in _blocks(fields.value.get("content"), fields.at("content")))


def _source_text(source: Fields) -> str:
    """The text of a document. Raises RequestError for one that is a PDF, or lies elsewhere."""
    match source.string("type"):
        case "text":
            return _Block("text", source).string("data")
        case "content":
            return _content_text(source)
    reason = f"expected text or content, got {source.value.get('type')!r}: only text is passed on here"
    raise RequestError(reason, source.at("type"))


def _call(block: _Block) -> ToolCall:
    arguments = block.fields.value.get("input")
    if not isinstance(arguments, dict):
        raise RequestError("expected the call's arguments, an object", block.fields.at("input"))
    try:
        text = json.dumps(arguments, ensure_ascii=False)
    except RecursionError:
        raise RequestError("expected arguments that aren't nested as deep", block.fields.at("input")) from None
    return ToolCall(block.string("id", empty=False), Function(block.string("name", empty=False), text))


def _result(block: _Block, seen: _Seen) -> Message:
    id, content = block.string("tool_use_id"), block.fields.value.get("content")
    if id not in seen.called:
        where = block.fields.at("tool_use_id")
        raise RequestError(f"expected the id of a tool_use of an earlier message, got {id!r}", where)
    text = ""
    for one in () if content is None else _blocks(content, block.fields.at("content"), "tool"):
        if one.kind == "tool_reference":
            name = one.string("tool_name")
            seen.loaded.add(name)
            text += f"{name} can be called now.\n"
        else:
            text += one.text
    # K2's format can't tell that a tool failed, so that the text has to.
    if block.fields.boolean("is_error", default=False) and "error" not in text.lower():
        text = f"Error: {text}"
    return Message("tool", text, tool_call_id=id)
