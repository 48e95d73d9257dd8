"""Any server that offers OpenAI's `/v1/completions`: the prompt goes out as text, the output comes back as it is
written.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

from abruzzi.engines.base import Capabilities, Piece, SamplingParams
from abruzzi.engines.output import Events, Output
from abruzzi.engines.refusal import refusal
from abruzzi.engines.sessions import Attempt, Sessions
from abruzzi.guide.grammar import Grammar
from abruzzi.protocol.errors import EngineError, EngineTimeout, EngineUnavailable, RequestError
from abruzzi.protocol.prompt import Prompt
from abruzzi.protocol.tokens import Tokenizer
from abruzzi.protocol.variants import Variant

_CONNECT_SECONDS = 5.0
# The longest silence that still counts as work: a long prompt is read before the first token comes.
_SILENCE_SECONDS = 600.0
# How long the end of a response is waited for behind its last event, so that its connection can be used again.
_LINGER_SECONDS = 0.2
# Engines that are asked for no limit stop at 16 tokens, as the first of OpenAI's did.
_MAX_TOKENS = 4096
_LEAST_TOKENS = 256
_JSON = {"Content-Type": "application/json"}


class CompletionsEngine:
    """An engine behind a URL. It is given no grammar; what it writes is checked."""

    def __init__(
        self,
        base_url: str,
        *,
        model: str,
        variant: Variant,
        context_length: int | None = None,
        tokenizer: Tokenizer | None = None,
        timeout: float | None = None,
    ) -> None:
        """`base_url` ends in `/v1`. `tokenizer` is for counting. `timeout`: seconds of silence after which a completion
        is given up, 600 when left out.
        """
        self.capabilities = Capabilities(
            model=model, variant=variant, constrains=False, context_length=context_length, counter=tokenizer
        )
        self.url = base_url
        self._silence = timeout or _SILENCE_SECONDS
        self._trouble: str | None = None
        self._sessions = Sessions(connect_seconds=_CONNECT_SECONDS, read_seconds=self._silence)
        self._fresh = Sessions(connect_seconds=_CONNECT_SECONDS, read_seconds=self._silence, keeps=False)

    async def complete(
        self, prompt: Prompt, params: SamplingParams, grammar: Grammar | None
    ) -> AsyncGenerator[Piece, None]:
        """Continue the prompt; `grammar` is left to the checks that follow."""
        url, output = f"{self.url}/completions", Output(params)
        try:
            response = await self._post(url, self._body(prompt, params))
            self._trouble = None
            try:
                content = response.content
                if response.status != 200:
                    async with asyncio.timeout(self._silence):
                        raise refusal(url, response.status, await response.text(errors="replace"))
                if response.content_type == "application/json":  # it doesn't stream, or is in trouble
                    async with asyncio.timeout(self._silence):
                        whole = await response.read()
                    for piece in output.pieces(iter((whole,))):
                        yield piece
                else:
                    events = Events()
                    received = b"\n"
                    while received and not output.over:
                        received = await content.readany()
                        for piece in output.pieces(events.feed(received or b"\n")):  # the last line may have no end
                            yield piece
                    await _linger(content)
            except aiohttp.ClientError:
                if not output.has_ended:
                    raise
            finally:
                response.close()  # nothing where it was read to its end; else the engine is to stop at once
            yield output.last()
        except aiohttp.ClientConnectorError as error:
            reason = getattr(error, "strerror", None) or error
            self._trouble = f"nothing answers at {self.url}: {reason}"
            raise EngineUnavailable(self._trouble) from error
        except aiohttp.ConnectionTimeoutError as error:
            self._trouble = f"nothing answers at {self.url} within {_CONNECT_SECONDS:g} s"
            raise EngineUnavailable(self._trouble) from error
        except TimeoutError as error:
            raise EngineTimeout(f"{url} said nothing for {self._silence:g} s") from error
        except aiohttp.ClientPayloadError as error:
            raise EngineError(f"{url} broke off: the connection ended before the answer did") from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise EngineError(f"{url} broke off: {error or type(error).__name__}") from error

    def health(self) -> list[dict[str, Any]]:
        """How it was when it was asked last: `url`, `model`, `status` (ok, sick) and its last `error`."""
        status = "ok" if self._trouble is None else "sick"
        return [{"url": self.url, "model": self.capabilities.model, "status": status, "error": self._trouble}]

    async def _post(self, url: str, body: bytes) -> aiohttp.ClientResponse:
        """The response, as soon as its head is there. A connection that had been kept may be given up by the engine
        just as it is used: then the request goes out once more, on a new one.
        """
        for sessions in (self._sessions, self._fresh):
            session, attempt = await sessions.get(), Attempt()
            # A redirect leads to another server than the one that was named.
            options: Any = {"headers": _JSON, "allow_redirects": False, "trace_request_ctx": attempt}
            try:
                return await session.post(url, data=io.BytesIO(body), **options)
            except aiohttp.ClientConnectorError:
                raise
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                if not attempt.reuses:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def _body(self, prompt: Prompt, params: SamplingParams) -> bytes:
        text = str(prompt)
        body: dict[str, Any] = {
            "model": self.capabilities.model,
            "prompt": text,
            "max_tokens": params.max_tokens or self._room(prompt, text),
            "temperature": params.temperature,
            "top_p": params.top_p,
            "seed": params.seed,
            "logprobs": params.logprobs,
            "stop": [prompt.variant.turn_end, *params.stop],
            "stream": True,
            "stream_options": {"include_usage": True},
            # Engines hide special tokens unless told otherwise, and K2's markers are such.
            "skip_special_tokens": False,
        }
        try:
            return msgspec.json.encode({key: value for key, value in body.items() if value is not None})
        except UnicodeEncodeError:
            raise RequestError("expected text, got half of a surrogate pair, which is no character") from None

    def _room(self, prompt: Prompt, text: str) -> int:
        """The limit where the client sets none. Engines refuse one that goes beyond what the model reads."""
        context, counter = self.capabilities.context_length, self.capabilities.counter
        if context is None or 3 * len(text) + _MAX_TOKENS < context:
            return _MAX_TOKENS
        if counter is not None:
            return max(1, min(_MAX_TOKENS, context - counter.count(prompt)))
        # Two bytes a token is little: of English it is four.
        return max(_LEAST_TOKENS, min(_MAX_TOKENS, context - len(text.encode()) // 2))

    async def aclose(self) -> None:
        """Close the connections of the running event loop; others' end with their loops."""
        await self._sessions.aclose()
        await self._fresh.aclose()


async def _linger(content: aiohttp.StreamReader) -> None:
    try:
        async with asyncio.timeout(_LINGER_SECONDS):
            while await content.readany():
                pass
    except TimeoutError:
        pass


@dataclass(frozen=True, slots=True)
class Served:
    """A model that a server lists."""

    model: str
    context_length: int | None = None


def served(base_url: str, model: str | None = None) -> Served:
    """The model of this name, or the first that the server lists. Blocks. EngineUnavailable: it lists none."""
    try:
        with urllib.request.urlopen(f"{base_url}/models", timeout=_CONNECT_SECONDS) as response:
            listed = json.load(response)["data"]
            found = next((one for one in listed if one["id"] == model), None)
            if model is not None and found is None:
                return Served(model)
            row = found or listed[0]
            length = row.get("max_model_len")  # vLLM's and SGLang's
            return Served(str(row["id"]), length if isinstance(length, int) and length > 0 else None)
    except urllib.error.HTTPError as error:
        raise EngineUnavailable(f"{base_url}/models answered {error.code}; name the model with --model") from error
    except OSError as error:
        raise EngineUnavailable(f"no engine answers at {base_url}: {getattr(error, 'reason', error)}") from error
    except (ValueError, LookupError, TypeError, AttributeError, http.client.HTTPException) as error:
        raise EngineUnavailable(f"{base_url}/models lists no model; name it with --model") from error
