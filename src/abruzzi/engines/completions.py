"""Any server that offers OpenAI's `/v1/completions`: the prompt goes out as text, the output comes back as it is
written.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import msgspec

from abruzzi.engines.base import Capabilities, Piece, SamplingParams
from abruzzi.engines.http import BrokenOff, Client, Silence, Unreachable
from abruzzi.engines.output import Events, Output
from abruzzi.engines.refusal import refusal
from abruzzi.guide.grammar import Grammar
from abruzzi.protocol.errors import EngineError, EngineTimeout, EngineUnavailable, RequestError
from abruzzi.protocol.prompt import Prompt
from abruzzi.protocol.tokens import Tokenizer
from abruzzi.protocol.variants import Variant

_CONNECT_SECONDS = 5.0
# The longest silence that still counts as work: a long prompt is read before the first token comes.
_SILENCE_SECONDS = 600.0
# Engines that are asked for no limit stop at 16 tokens, as the first of OpenAI's did.
_MAX_TOKENS = 4096
_LEAST_TOKENS = 256
# Past the environment's proxies, as every other request to an engine goes.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
# Characters of a prompt that take a millisecond or more to spell, or tens of them where all may be markers.
_LONG = 256 << 10
# Bytes of an answer that comes whole.
_MAX_WHOLE = 64 << 20


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
        api_key: str | None = None,
    ) -> None:
        """`base_url` ends in `/v1`. `tokenizer` is for counting. `timeout`: seconds of silence after which a completion
        is given up, 600 when left out. `api_key` is the one that the engine asks for.
        """
        self.capabilities = Capabilities(
            model=model, variant=variant, constrains=False, context_length=context_length, counter=tokenizer
        )
        self.url = base_url
        self._trouble: str | None = None
        self._client = Client(
            base_url,
            connect_seconds=_CONNECT_SECONDS,
            silence_seconds=timeout or _SILENCE_SECONDS,
            headers=() if api_key is None else (("authorization", f"Bearer {api_key}"),),
        )

    async def complete(
        self, prompt: Prompt, params: SamplingParams, grammar: Grammar | None
    ) -> AsyncGenerator[Piece, None]:
        """Continue the prompt; `grammar` is left to the checks that follow."""
        url, output = f"{self.url}/completions", Output(params)
        try:
            is_long = sum(map(len, prompt.parts)) > _LONG  # others are being served meanwhile
            body = await asyncio.to_thread(self._body, prompt, params) if is_long else self._body(prompt, params)
            response = await self._client.post("/completions", body)
            del body
            self._trouble = None
            try:
                if response.status != 200:
                    said = await response.rest(_MAX_WHOLE)
                    wait = response.headers.get(b"retry-after", b"").decode("latin-1")
                    raise refusal(url, response.status, said.decode(errors="replace"), wait)
                if response.headers.get(b"content-type", b"").startswith(b"application/json"):
                    whole = await response.rest(_MAX_WHOLE)  # it doesn't stream, or is in trouble
                    for piece in output.pieces((whole,)):
                        yield piece
                else:
                    events = Events()
                    received = b"\n"
                    while received and not output.over:
                        received = await response.read()
                        for piece in output.pieces(events.feed(received or b"\n")):  # the last line may have no end
                            yield piece
            except (BrokenOff, Silence):
                if not output.has_ended:
                    raise
            finally:
                response.close(lingers=output.over)
            yield output.last()
        except Unreachable as error:
            self._trouble = f"nothing answers at {self.url}: {error}"
            raise EngineUnavailable(self._trouble) from error
        except Silence as error:
            raise EngineTimeout(f"{url} {error}") from error
        except BrokenOff as error:
            raise EngineError(f"{url} broke off: {error}") from error

    def health(self) -> list[dict[str, Any]]:
        """How it was when it was asked last: `url`, `model`, `status` (ok, sick) and its last `error`."""
        status = "ok" if self._trouble is None else "sick"
        return [{"url": self.url, "model": self.capabilities.model, "status": status, "error": self._trouble}]

    async def look(self) -> bool:
        """Whether there is somebody to ask, now."""
        try:
            await self._client.reach()
        except Unreachable as error:
            self._trouble = f"nothing answers at {self.url}: {error}"
            return False
        self._trouble = None
        return True

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
            "frequency_penalty": params.frequency_penalty,
            "presence_penalty": params.presence_penalty,
            # Not OpenAI's: what knows only its fields refuses these, or does nothing about them.
            "repetition_penalty": params.repetition_penalty,
            "top_k": params.top_k,
            "min_p": params.min_p,
            "logit_bias": {str(id): bias for id, bias in params.logit_bias} or None,
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
        await self._client.aclose()


@dataclass(frozen=True, slots=True)
class Served:
    """A model that a server lists."""

    model: str
    context_length: int | None = None


def served(base_url: str, model: str | None = None, api_key: str | None = None) -> Served:
    """The model of this name, or the first that the server lists. Blocks. EngineUnavailable: it lists none."""
    request = urllib.request.Request(f"{base_url}/models")
    if api_key is not None:
        request.add_unredirected_header("Authorization", f"Bearer {api_key}")
    try:
        with _DIRECT.open(request, timeout=_CONNECT_SECONDS) as response:
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
