"""What a server of OpenAI's `/v1/chat/completions` writes, read to pieces of K2's own text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from abruzzi.engines.base import Piece, SamplingParams
from abruzzi.engines.chat_spelling import Behind, ChatSpelling
from abruzzi.engines.output import Choice, Chunk, Stream
from abruzzi.engines.refusal import Failed
from abruzzi.protocol.errors import EngineError
from abruzzi.protocol.prompt import Prompt

# In place of an index: the one call that the field from before there were several has.
_ONLY = -1


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: Any = None
    """A JSON text; of some hosts the object itself."""


class _ToolCall(msgspec.Struct, gc=False):
    index: Any = None
    id: Any = None
    function: _Function | None = None


class _Delta(msgspec.Struct, gc=False):
    content: Any = None
    """A text; of some hosts a list of parts."""
    reasoning_content: str | None = None
    reasoning: str | None = None
    """OpenRouter's name for it, and vLLM's newer one."""
    tool_calls: Sequence[_ToolCall | None] | None = None
    function_call: _Function | None = None


class _Choice(Choice, gc=False):
    delta: _Delta | None = None
    message: _Delta | None = None
    """In place of `delta`, where the answer comes whole."""


class _ChatChunk(Chunk, gc=False):
    choices: Sequence[_Choice] | None = None


_decode = msgspec.json.Decoder(_ChatChunk).decode


class ChatOutput(Stream[_ChatChunk]):
    """The chunks of a chat's answer to the prompt's conversation: of it, what goes on behind the prompt."""

    def __init__(self, params: SamplingParams, prompt: Prompt) -> None:
        super().__init__(params, _decode)
        self._spelling = ChatSpelling(prompt)
        self._behind = Behind(prompt.written) if prompt.written else None
        self._has_delta = False
        self._has_calls = False

    @property
    def drops_reasoning(self) -> bool:
        """Whether the model reasons, and its variant says that it doesn't."""
        return self._spelling.drops_reasoning

    def pieces(self, events: Iterable[bytes]) -> Iterator[Piece]:
        texts: list[str] = []
        try:
            for chunk in self._chunks(events):
                text = self._passed("".join(map(self._read_choice, chunk.choices or ())))
                texts.append(text)
                self._note_silence(bool(text))
                if self._spelling.is_endless:
                    self.over = True
                    self._reason = self._reason or ("stop" if self._spelling.is_whole else "length")
                    break
        except EngineError:
            if any(texts):  # what came before the fault is no less sure for it
                yield Piece("".join(texts))
            raise
        if any(texts):
            yield Piece("".join(texts))

    def last(self, *, guided: bool) -> Piece:
        if self._reason is None and self.over and self._spelling.is_whole:
            self._reason = "stop"  # it said by `[DONE]` that no more follows
        end = super().last(guided=guided)
        if self._reason == "content_filter":
            raise Failed("the engine's content filter ended the answer")
        rest = self._passed(self._spelling.close(cut=end.finish_reason == "length"))
        return msgspec.structs.replace(end, text=rest)

    def _read_choice(self, choice: _Choice) -> str:
        self._note_end(choice)
        self._has_delta = self._has_delta or choice.delta is not None
        # Some hosts end a stream with the whole message.
        delta = choice.delta if self._has_delta else choice.message
        return "" if delta is None else "".join(self._spelled(delta))

    def _spelled(self, delta: _Delta) -> Iterator[str]:
        yield self._spelling.reasoning(delta.reasoning_content or delta.reasoning or "")
        yield self._spelling.content(_said(delta.content))
        for call in delta.tool_calls or ():
            if call is not None:
                self._has_calls = True
                index = call.index if call.index is None else _number(call.index)
                yield self._call(index, None if call.id is None else str(call.id), call.function)
        if delta.function_call is not None and not self._has_calls:
            yield self._call(_ONLY, None, delta.function_call)

    def _call(self, index: int | None, id: str | None, function: _Function | None) -> str:
        if function is None:
            return ""
        return self._spelling.call(index, id, function.name or "", _text(function.arguments))

    def _passed(self, text: str) -> str:
        return text if self._behind is None or not text else self._behind.feed(text)


def _said(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return "" if content is None else str(content)


def _number(index: Any) -> int:
    try:
        return int(index)
    except (ValueError, TypeError):
        return _ONLY


def _text(arguments: Any) -> str:
    if arguments is None:
        return ""
    return arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
