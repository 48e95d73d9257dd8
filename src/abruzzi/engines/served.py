"""What a server says that it serves."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from abruzzi.engines.http import plain
from abruzzi.engines.refusal import redirect
from abruzzi.protocol.errors import EngineUnavailable

_SECONDS = 5.0
_MAX_LIST = 16 << 20


class KeyRefused(EngineUnavailable):
    """The engine asks for a key, or for another one."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


# As every other request to an engine goes: past the environment's proxies, and nowhere else.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects)


@dataclass(frozen=True, slots=True)
class Served:
    """A model that a server lists."""

    model: str
    context_length: int | None = None


def served(base_url: str, model: str | None = None, api_key: str | None = None) -> Served:
    """The model of this name, or the first that the server lists. Blocks. EngineUnavailable: nobody answers, or none is
    named and it lists none; KeyRefused: it asks for a key.
    """
    request = urllib.request.Request(f"{base_url}/models")
    if api_key is not None:
        request.add_header("Authorization", f"Bearer {api_key}")
    try:
        with _DIRECT.open(request, timeout=_SECONDS) as response:
            listed = json.loads(_read(response))
            return Served(name := _first(listed) if model is None else model, context_length_of(listed, name))
    except urllib.error.HTTPError as error:
        if 300 <= error.code < 400 and (location := error.headers.get("Location")):
            raise EngineUnavailable(redirect(f"{base_url}/models", error.code, location)) from error
        if error.code in (401, 403):
            change = "give its key with --engine-key-file FILE or ABRUZZI_ENGINE_KEY"
            raise KeyRefused(f"{base_url}/models answered {error.code}: {change}") from error
        if model is not None:
            return Served(model)
        raise EngineUnavailable(f"{base_url}/models answered {error.code}; name the model with --model") from error
    except OSError as error:
        reason = plain(getattr(error, "reason", error))
        raise EngineUnavailable(f"no engine answers at {base_url}: {reason}") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, http.client.HTTPException) as error:
        if model is not None:
            return Served(model)
        raise EngineUnavailable(f"{base_url}/models lists no model; name it with --model") from error


def _read(response: http.client.HTTPResponse) -> bytes:
    """The body. Raises TimeoutError where it takes too long in all, ValueError where it is too large."""
    until, parts, size = time.monotonic() + _SECONDS, list[bytes](), 0
    while part := response.read1(1 << 16):
        parts.append(part)
        size += len(part)
        if size > _MAX_LIST:
            raise ValueError("the list is too long")
        if time.monotonic() > until:
            raise TimeoutError("timed out")
    return b"".join(parts)


def _first(listed: Any) -> str:
    name = listed["data"][0]["id"]
    if not isinstance(name, str):
        raise TypeError("its name is none")
    return name


def context_length_of(listed: Any, model: str) -> int | None:
    """How many tokens a model reads, where the server's list of models says it."""
    try:
        row = next((one for one in listed["data"] if one["id"] == model), listed["data"][0])
        # vLLM's and SGLang's name for it; llama.cpp's.
        length = row.get("max_model_len") or (row.get("meta") or {}).get("n_ctx")
    except (LookupError, TypeError, AttributeError):
        return None
    return length if isinstance(length, int) and length > 0 else None
