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
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    """OpenRouter's name for it, and vLLM's newer one."""
    tool_calls: Sequence[_ToolCall] | None = None
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

    def pieces(self, events: Iterable[bytes]) -> Iterator[Piece]:
        texts: list[str] = []
        try:
            for chunk in self._chunks(events):
                for choice in chunk.choices or ():
                    self._note_end(choice)
                    if (delta := choice.delta or choice.message) is not None:
                        texts += self._spelled(delta)
        except EngineError:
            if text := self._passed("".join(texts)):  # what came before the fault is no less sure for it
                yield Piece(text)
            raise
        if text := self._passed("".join(texts)):
            yield Piece(text)

    def last(self, *, guided: bool) -> Piece:
        end = super().last(guided=guided)
        if self._reason == "content_filter":
            raise Failed("the engine's content filter ended the answer")
        rest = self._passed(self._spelling.close(cut=end.finish_reason == "length"))
        return msgspec.structs.replace(end, text=rest)

    def _spelled(self, delta: _Delta) -> Iterator[str]:
        yield self._spelling.reasoning(delta.reasoning_content or delta.reasoning or "")
        yield self._spelling.content(delta.content or "")
        for call in delta.tool_calls or ():
            function = call.function or _Function()
            yield self._spelling.call(call.index, call.id, function.name, _text(function.arguments))
        if delta.function_call is not None:
            yield self._spelling.call(_ONLY, None, delta.function_call.name, _text(delta.function_call.arguments))

    def _passed(self, text: str) -> str:
        return text if self._behind is None or not text else self._behind.feed(text)


def _text(arguments: Any) -> str:
    if arguments is None:
        return ""
    return arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
