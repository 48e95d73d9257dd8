"""What a server of OpenAI's API writes as server-sent events, and a completion of `/v1/completions` read to pieces."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from abruzzi.engines.base import Piece, SamplingParams, Usage
from abruzzi.engines.refusal import Failed, words
from abruzzi.protocol.errors import EngineError

# Bytes of one line: engines that give all at once write up to a million characters, each six bytes as `\\uXXXX`.
_MAX_LINE = 16 << 20
_MAX_COUNT = 1 << 53
# Chunks in a row that bring nothing: more than any model thinks behind a host that doesn't show it.
_MAX_SILENT = 100_000
# Ends at which the engine gave the request up: vLLM's and SGLang's; TensorRT-LLM's.
_GIVEN_UP = frozenset(("abort", "error", "cancelled", "timeout"))


class Events:
    """Bytes as they come, to the data of the events. Lines end at newlines only: other line breaks may stand inside a
    JSON string. Each of these events has one line of data.
    """

    def __init__(self) -> None:
        self._begun: list[bytes] = []
        self._length = 0

    def feed(self, received: bytes) -> Sequence[bytes]:
        """The data of the events that are whole by now."""
        if b"\n" not in received:
            self._begun.append(received)
            self._length += len(received)
            if self._length > _MAX_LINE:
                raise EngineError(f"the engine wrote a line of more than {_MAX_LINE:,} bytes")
            return ()
        if self._begun:
            received = b"".join((*self._begun, received))
        lines = received.split(b"\n")
        last = lines.pop()
        self._begun, self._length = [last] if last else [], len(last)
        return [line[5:].strip() for line in lines if line.startswith(b"data:")]


class Chunk(msgspec.Struct, gc=False):
    """What every chunk has beside its choices."""

    usage: Any = None
    error: Any = None
    object: str | None = None
    """`error` in errors of TensorRT-LLM's flat shape."""


_AnyChunk = TypeVar("_AnyChunk", bound=Chunk)


class Choice(msgspec.Struct, gc=False):
    """What tells the end of an output."""

    finish_reason: Any = None
    """A text; whatever else stands there is an end like any other."""
    stop_reason: str | int | None = None
    """The stop sequence, or the token's id: vLLM's name for it."""
    matched_stop: str | int | None = None
    """SGLang's."""


class Stream(ABC, Generic[_AnyChunk]):
    """The chunks of one answer, and how it ends."""

    def __init__(self, params: SamplingParams, decode: Callable[[bytes | str], _AnyChunk]) -> None:
        """`decode` reads a chunk of JSON; msgspec's errors tell that it is none."""
        self._params = params
        self._decode = decode
        self._reason: str | None = None
        self._stop: str | int | None = None
        self._usage: Usage | None = None
        self._silent = 0  # chunks since the last that brought something
        self.over = False
        """Whether the engine said that no more events follow."""

    @property
    def has_ended(self) -> bool:
        """Whether a `finish_reason` has come."""
        return self._reason is not None

    @abstractmethod
    def pieces(self, events: Iterable[bytes]) -> Iterator[Piece]:
        """What the events say, but for the last piece. Raises EngineError for what is no chunk, and for an error."""

    def _chunks(self, events: Iterable[bytes]) -> Iterator[_AnyChunk]:
        for data in events:
            if data == b"[DONE]":
                self.over = True
                return
            chunk = self._read(data)
            if chunk.error is not None or chunk.object == "error":
                raise Failed(f"the engine failed: {words(data.decode(errors='replace'))}")
            if chunk.usage is not None:
                self._usage = counted(chunk.usage)
            yield chunk

    def _note_end(self, choice: Choice) -> None:
        self._reason = str(choice.finish_reason) if choice.finish_reason else self._reason
        self._stop = choice.stop_reason or choice.matched_stop or self._stop

    def _note_silence(self, ended: bool) -> None:
        self._silent = 0 if ended else self._silent + 1
        if self._silent > _MAX_SILENT:
            raise EngineError(f"the engine wrote {_MAX_SILENT:,} chunks in a row that bring nothing")

    def last(self, *, guided: bool) -> Piece:
        """The end of the output. Raises EngineError where the engine had not come to it."""
        if self._reason is None:
            raise EngineError("the engine ended its stream without a finish_reason")
        if self._reason in _GIVEN_UP:
            raise Failed(f"the engine gave the completion up: its finish_reason is {self._reason}")
        told = self._stop if isinstance(self._stop, str) and self._stop in self._params.stop else None
        return Piece(
            finish_reason="length" if self._reason == "length" else "stop", usage=self._usage, stop=told, guided=guided
        )

    def _read(self, data: bytes) -> _AnyChunk:
        try:
            return self._decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
        # What JSON proper doesn't have, and some engines write: half a surrogate pair, NaN among probabilities.
        try:
            text = json.dumps(json.loads(data, parse_constant=lambda _: None), ensure_ascii=False)
            return self._decode(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
        except (ValueError, RecursionError) as error:  # msgspec's errors are such
            shown = data[:80].decode(errors="replace")
            raise EngineError(f"the engine broke off: {error}, in {shown!r}") from None


class _Choice(Choice, gc=False):
    text: str | None = None
    token_ids: tuple[int, ...] | None = None
    """vLLM's and SGLang's, where they are asked for."""
    logprobs: msgspec.Raw = msgspec.Raw(b"null")


class _Completion(Chunk, gc=False):
    choices: Sequence[_Choice] | None = None


_decode = msgspec.json.Decoder(_Completion).decode


class Output(Stream[_Completion]):
    """The chunks of one completion. What comes at once makes one piece, but where alternatives are asked for. `by_id`:
    whether token ids count, where they come.
    """

    def __init__(self, params: SamplingParams, *, by_id: bool = False) -> None:
        super().__init__(params, _decode)
        self._by_id = by_id

    def pieces(self, events: Iterable[bytes]) -> Iterator[Piece]:
        texts: list[str] = []
        ids: list[int] = []
        alone = self._params.offered is not None
        try:
            for chunk in self._chunks(events):
                for choice in chunk.choices or ():
                    self._note_end(choice)
                    its = choice.token_ids if self._by_id and choice.token_ids else ()
                    if self._by_id and choice.text and not its:
                        raise Failed("the engine told no token ids for a part of its text, for which it was asked")
                    self._note_silence(bool(choice.text or its))
                    if alone and (choice.text or its):
                        logprob, alternatives = _logprobs(choice.logprobs)
                        yield Piece(choice.text or "", ids=its, logprob=logprob, alternatives=alternatives)
                    else:
                        ids += its
                        texts.append(choice.text or "")
        except EngineError:
            if any(texts) or ids:  # what came before the fault is no less sure for it
                yield Piece("".join(texts), ids=tuple(ids))
            raise
        if any(texts) or ids:
            yield Piece("".join(texts), ids=tuple(ids))


def counted(usage: Any) -> Usage:
    """What an engine says that a request cost."""
    told = [_member(usage, name) for name in ("prompt_tokens", "completion_tokens")]
    told.append(_member(_member(usage, "prompt_tokens_details"), "cached_tokens"))
    # What is no count counts nothing: sums of them never fall, and stay numbers that every reader of JSON has.
    return Usage(*(count if type(count) is int and 0 <= count < _MAX_COUNT else 0 for count in told))


def _member(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _logprobs(told: msgspec.Raw) -> tuple[float | None, tuple[tuple[str, float], ...]]:
    """How likely a chunk's token was, and what else might have come, where it has one token and the engine tells."""
    value = msgspec.json.decode(told)
    if not isinstance(value, dict):
        return None, ()
    own, offered = _only(value.get("token_logprobs")), _only(value.get("top_logprobs"))
    others = offered.items() if isinstance(offered, dict) else ()
    alternatives = tuple((token, float(logprob)) for token, logprob in others if isinstance(logprob, int | float))
    return float(own) if isinstance(own, int | float) else None, alternatives


def _only(values: Any) -> Any:
    return values[0] if isinstance(values, list) and len(values) == 1 else None
