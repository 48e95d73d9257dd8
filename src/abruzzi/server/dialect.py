"""What an API's dialect is made of: its body decoded to a `ChatRequest`, events encoded to its response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from abruzzi.chat import ChatRequest, Report
from abruzzi.protocol.errors import AbruzziError, RequestError
from abruzzi.protocol.events import Event
from abruzzi.protocol.messages import Message


class Encoder(Protocol):
    """Writes one response. What it returns for a stream are whole server-sent events."""

    id: str
    """The response's, as the client is told it."""

    def whole(self, answers: Sequence[tuple[Message, Report]]) -> Mapping[str, Any]:
        """A response that doesn't stream: an answer for each that was asked for."""
        ...

    def begin(self) -> bytes:
        """What opens a stream."""
        ...

    def frames(self, items: Sequence[Event | Report], index: int) -> bytes:
        """More of the answer with this index; its last item is its `Report`."""
        ...

    def end(self) -> bytes:
        """What ends a stream whose answers are whole."""
        ...

    def failed(self, error: AbruzziError) -> bytes:
        """What ends a stream that can't go on."""
        ...


@dataclass(frozen=True, slots=True)
class Call:
    """A decoded request: what is asked, and how the answer is wanted."""

    request: ChatRequest
    encoder: Encoder
    stream: bool = False
    answers: int = 1
    """How many are asked for, of each request."""
    model: str = ""
    """The name that the client gave."""
    others: Sequence[ChatRequest] = ()
    """What is asked beside `request`: more prompts of one body."""
    ignored: Sequence[str] = ()
    """The names of fields that nobody looks at."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Where in the body stands what `ChatRequest` has under a name of its own."""

    @property
    def all(self) -> list[ChatRequest]:
        """A request for each answer, in the order of their indices."""
        return [request for request in (self.request, *self.others) for _ in range(self.answers)]


class Dialect(Protocol):
    """An API: one of its endpoints that has a model answer.

    `keep_alive` is written into a stream that has been silent for a while, so that proxies let it be.
    """

    keep_alive: bytes = b": still at work\n\n"

    def decode(self, body: dict[str, Any], model: str, owner: bytes | None = None) -> Call:
        """`model`: the name of what is served. `owner`: the digest of the client's key, where it has one. Raises
        RequestError, with the path of the first fault.
        """
        ...

    @staticmethod
    def read_tools(values: Sequence[Any]) -> Any:
        """What `decode` makes of a body's `tools` by themselves, by way of `made_of`. Raises RequestError."""
        return values

    def error(self, error: AbruzziError) -> Mapping[str, Any]:
        """The body of a response that tells of an error."""
        ...


DONE = b"data: [DONE]\n\n"
"""OpenAI's end of a stream."""


def data(value: Any) -> bytes:
    """A server-sent event without a name."""
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def event(name: str, value: Any) -> bytes:
    """A server-sent event."""
    return b"event: " + name.encode() + b"\ndata: " + msgspec.json.encode(value) + b"\n\n"


class Fields:
    """Members of an object of the body by their type; null counts as left out. `path` is where the object stands."""

    def __init__(self, value: Mapping[str, Any], path: str = "") -> None:
        self.value = value
        self.where = path
        self._path = f"{path}." if path else ""

    def at(self, key: str) -> str:
        """The path of a member."""
        return f"{self._path}{key}"

    def boolean(self, key: str, *, default: bool) -> bool:
        value = self.value.get(key)
        if value is not None and not isinstance(value, bool):
            raise RequestError(f"expected true or false, got {_shown(value)}", self.at(key))
        return default if value is None else value

    def integer(self, key: str, least: int | None = None, most: int | None = None) -> int | None:
        value = self.value.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise RequestError(f"expected an integer, got {_shown(value)}", self.at(key))
        self._check_limits(key, value, least, most)
        return value

    def number(self, key: str, least: float, most: float) -> float | None:
        value = self.value.get(key)
        if value is not None and (not isinstance(value, int | float) or isinstance(value, bool)):
            raise RequestError(f"expected a number, got {_shown(value)}", self.at(key))
        self._check_limits(key, value, least, most)
        return value

    def string(self, key: str) -> str | None:
        value = self.value.get(key)
        if not isinstance(value, str | None):
            raise RequestError(f"expected a string, got {_shown(value)}", self.at(key))
        return value

    def one_of(self, key: str, *values: str) -> str | None:
        """One of some strings."""
        value = self.string(key)
        if value not in (None, *values):
            raise RequestError(f"expected one of {', '.join(values)}, got {_shown(value)}", self.at(key))
        return value

    def list(self, key: str, *, optional: bool = False) -> Sequence[Any]:
        value = self.value.get(key)
        if optional and value is None:
            return ()
        if not isinstance(value, list):
            raise RequestError(f"expected a list, got {_shown(value)}", self.at(key))
        return value

    def object(self, key: str) -> Fields:
        """An object that may be left out."""
        value = self.value.get(key)
        if not isinstance(value, dict | None):
            raise RequestError(f"expected an object, got {_shown(value)}", self.at(key))
        return Fields(value or {}, self.at(key))

    def _check_limits(self, key: str, value: float | None, least: float | None, most: float | None) -> None:
        if value is not None and ((least is not None and value < least) or (most is not None and value > most)):
            limits = f"at least {least}" if most is None else f"between {least} and {most}"
            raise RequestError(f"expected a value {limits}, got {_shown(value)}", self.at(key))


def _shown(value: Any) -> str:
    text = msgspec.json.encode(value).decode(errors="replace")
    return text if len(text) < 80 else f"{text[:80]}..."
