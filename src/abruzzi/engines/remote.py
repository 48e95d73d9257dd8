"""What engines behind a URL have in common: a request is posted, the answer read as it comes, and how the server was
when it was asked last is remembered.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

import msgspec

from abruzzi.engines.base import Capabilities, Piece
from abruzzi.engines.http import BrokenOff, Client, Response, Silence, Unreachable
from abruzzi.engines.output import Events, Stream
from abruzzi.engines.refusal import Failed, refusal
from abruzzi.protocol.errors import AbruzziError, EngineError, EngineTimeout, EngineUnavailable, RequestError
from abruzzi.protocol.prompt import Prompt

_CONNECT_SECONDS = 5.0
# The longest silence that still counts as work: a long prompt is read before the first token comes.
_SILENCE_SECONDS = 600.0
# Characters of a prompt that take a millisecond or more to spell, or tens of them where all may be markers.
_LONG = 256 << 10
# Bytes of an answer that comes whole.
_MAX_WHOLE = 64 << 20
# Characters of a content type.
_SHOWN = 80


class Remote:
    """A server that is asked over HTTP."""

    capabilities: Capabilities

    def __init__(self, base_url: str, timeout: float | None, api_key: str | None) -> None:
        """`base_url` ends in `/v1`. `timeout`: seconds of silence after which an answer is given up, 600 when None."""
        self.url = base_url
        self._trouble: str | None = None
        self._client = Client(
            base_url,
            connect_seconds=_CONNECT_SECONDS,
            silence_seconds=timeout or _SILENCE_SECONDS,
            headers=() if api_key is None else (("authorization", f"Bearer {api_key}"),),
        )

    def health(self) -> list[dict[str, Any]]:
        """How it was when it was asked last: `url`, `model`, `status` (ok, sick) and its last `error`."""
        status = "ok" if self._trouble is None else "sick"
        return [{"url": self.url, "model": self.capabilities.model, "status": status, "error": self._trouble}]

    async def look(self) -> bool:
        """Whether there is somebody to ask, now."""
        try:
            await self._client.reach()
        except Unreachable as error:
            self._note_trouble(error)
            return False
        self._trouble = None
        return True

    def _note_trouble(self, error: Unreachable) -> None:
        self._trouble = f"nothing answers at {self.url}: {error}"

    async def aclose(self) -> None:
        """Close the connections of the running event loop; others' end with their loops."""
        await self._client.aclose()

    async def _answer(
        self, path: str, prompt: Prompt, make: Callable[[], bytes], output: Stream[Any], *, guided: bool = False
    ) -> AsyncGenerator[Piece, None]:
        """The answer to a request about a prompt, whose body is made here, as `output` reads it."""
        url = f"{self.url}{path}"
        try:
            is_long = sum(map(len, prompt.parts)) > _LONG  # others are being served meanwhile
            body = await asyncio.to_thread(make) if is_long else make()
            response = await self._client.ask("POST", path, body)
            del body
            self._trouble = None
            try:
                if response.status != 200:
                    raise await _refusal(url, response)
                received = b" "
                while received.isspace():  # which some hosts send while a request waits
                    received = await response.read()
                if _is_whole(url, response, received):  # it doesn't stream, or is in trouble
                    whole = received + await response.rest(_MAX_WHOLE)
                    for piece in output.pieces((whole,)):
                        yield piece
                else:
                    events = Events()
                    for piece in output.pieces(events.feed(received or b"\n")):
                        yield piece
                    while received and not output.over:
                        received = await response.read()
                        for piece in output.pieces(events.feed(received or b"\n")):  # the last line may have no end
                            yield piece
            except (BrokenOff, Silence):
                if not output.has_ended:
                    raise
            finally:
                response.close(lingers=output.over)
            yield output.last(guided=guided)
        except Unreachable as error:
            self._note_trouble(error)
            raise EngineUnavailable(str(self._trouble)) from error
        except Silence as error:
            raise EngineTimeout(f"{url} {error}") from error
        except BrokenOff as error:
            raise EngineError(f"{url} broke off: {error}") from error


def _is_whole(url: str, response: Response, begins: bytes) -> bool:
    """Whether the answer is one JSON value and no stream of events, by what it begins with: hosts name either anything.
    Raises Failed for a page.
    """
    kind = response.headers.get(b"content-type", b"").decode("latin-1")
    if begins.lstrip().startswith(b"<"):
        raise Failed(f"{url} answered with a page ({kind[:_SHOWN] or 'of no type'}), expected events or JSON")
    is_event = begins.lstrip().startswith((b"data:", b"event:", b"id:", b"retry:", b":"))
    return begins.lstrip().startswith(b"{") or (kind.lower().startswith("application/json") and not is_event)


async def _refusal(url: str, response: Response) -> AbruzziError:
    said = await response.rest(_MAX_WHOLE)
    wait, location = (response.headers.get(name, b"").decode("latin-1") for name in (b"retry-after", b"location"))
    return refusal(url, response.status, said.decode(errors="replace"), wait, location)


def encoded(body: Mapping[str, Any] | Sequence[Any]) -> bytes:
    """JSON, of an object without what is None at its top. Raises RequestError for what is no text."""
    if isinstance(body, Mapping):
        body = {key: value for key, value in body.items() if value is not None}
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:
        raise RequestError("expected text, got half of a surrogate pair, which is no character") from None
