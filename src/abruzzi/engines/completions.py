"""Any server that offers OpenAI's `/v1/completions`: the prompt goes out as text, the output comes back as it is
written.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import aiohttp

from abruzzi.engines.base import Capabilities, Piece, SamplingParams, Usage
from abruzzi.guide.grammar import Grammar
from abruzzi.protocol.errors import EngineError, EngineTimeout, EngineUnavailable
from abruzzi.protocol.prompt import Prompt
from abruzzi.protocol.variants import Variant

_CONNECT_SECONDS = 5.0
# The longest silence that still counts as work: a long prompt is read before the first token comes.
_SILENCE_SECONDS = 600.0
# Engines that are asked for no limit stop at 16 tokens, as the first of OpenAI's did.
_MAX_TOKENS = 4096
_ERROR_SHOWN = 500


class CompletionsEngine:
    """An engine behind a URL. It is given no grammar; what it writes is checked."""

    def __init__(self, base_url: str, *, model: str, variant: Variant) -> None:
        self.capabilities = Capabilities(model=model, variant=variant, constrains=False)
        self._base_url = base_url

    async def complete(
        self, prompt: Prompt, params: SamplingParams, grammar: Grammar | None
    ) -> AsyncGenerator[Piece, None]:
        """Continue the prompt; `grammar` is left to the checks that follow."""
        url = f"{self._base_url}/completions"
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENCE_SECONDS)
        try:
            # A session belongs to an event loop, an engine to none. To connect anew is nothing beside a completion.
            async with (
                aiohttp.ClientSession(timeout=timeout, read_bufsize=1 << 20) as session,
                session.post(url, json=self._body(prompt, params)) as response,
            ):
                if response.status != 200:
                    raise EngineError(f"{url} answered {response.status}: {_reason(await response.text())}")
                async for piece in _pieces(response.content):
                    yield piece if piece.stop in params.stop else replace(piece, stop=None)
        except TimeoutError as error:
            raise EngineTimeout(f"{url} said nothing for {_SILENCE_SECONDS:.0f} s") from error
        except aiohttp.ClientConnectorError as error:
            raise EngineUnavailable(f"nothing answers at {self._base_url}: {error.strerror or error}") from error
        except (aiohttp.ClientError, ValueError, TypeError, AttributeError) as error:
            raise EngineError(f"{url} broke off: {error}") from error

    def _body(self, prompt: Prompt, params: SamplingParams) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.capabilities.model,
            "prompt": str(prompt),
            "max_tokens": params.max_tokens or _MAX_TOKENS,
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
        return {key: value for key, value in body.items() if value is not None}

    async def aclose(self) -> None:
        """There is nothing to close: a completion's connection ends with it."""


async def _pieces(content: aiohttp.StreamReader) -> AsyncGenerator[Piece, None]:
    """The server-sent events of a completion. Lines end at newlines only: other line breaks may stand inside a JSON
    string.
    """
    reason: Any = None
    stop: Any = None  # vLLM tells the sequence, SGLang calls it `matched_stop`
    usage = Usage()
    async for line in content:
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            break
        chunk = json.loads(data)
        if "error" in chunk:
            raise EngineError(f"the engine failed: {_reason(data.decode())}")
        if counted := chunk.get("usage"):
            usage = Usage(counted.get("prompt_tokens") or 0, counted.get("completion_tokens") or 0)
        for choice in chunk.get("choices", ()):
            reason = choice.get("finish_reason") or reason
            stop = choice.get("stop_reason") or choice.get("matched_stop") or stop
            if choice.get("text"):
                yield Piece(choice["text"], alternatives=_alternatives(choice.get("logprobs")))
    if reason is None:
        raise EngineError("the engine ended its stream without a finish_reason")
    told = stop if isinstance(stop, str) else None
    yield Piece(finish_reason="length" if reason == "length" else "stop", usage=usage, stop=told)


def _alternatives(logprobs: Any) -> tuple[tuple[str, float], ...]:
    """What else might have come in place of a chunk's token, where it has one and the engine tells."""
    offered = logprobs.get("top_logprobs") if isinstance(logprobs, dict) else None
    if not isinstance(offered, list) or len(offered) != 1 or not isinstance(offered[0], dict):
        return ()
    return tuple((str(token), float(logprob)) for token, logprob in offered[0].items() if logprob is not None)


def _reason(body: str) -> str:
    """The message inside an error's body, in either of the shapes that engines use."""
    try:
        error = json.loads(body)
        error = error.get("error", error)
        message = error if isinstance(error, str) else error.get("message", body)
    except (ValueError, AttributeError):
        message = body
    return str(message)[:_ERROR_SHOWN]


def first_model(base_url: str) -> str:
    """The name of the first model that the server lists. Blocks; raises EngineUnavailable when it lists none."""
    try:
        with urllib.request.urlopen(f"{base_url}/models", timeout=_CONNECT_SECONDS) as response:
            return str(json.load(response)["data"][0]["id"])
    except urllib.error.HTTPError as error:
        raise EngineUnavailable(f"{base_url}/models answered {error.code}; name the model with --model") from error
    except OSError as error:
        raise EngineUnavailable(f"no engine answers at {base_url}: {getattr(error, 'reason', error)}") from error
    except (ValueError, LookupError, TypeError, http.client.HTTPException) as error:
        raise EngineUnavailable(f"{base_url}/models lists no model; name it with --model") from error
