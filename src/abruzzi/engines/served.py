"""What a server says that it serves."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from abruzzi.engines.http import plain
from abruzzi.engines.refusal import redirect
from abruzzi.protocol.errors import EngineUnavailable

_SECONDS = 5.0


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
    """The model of this name, or the first that the server lists. Blocks. EngineUnavailable: it lists none."""
    request = urllib.request.Request(f"{base_url}/models")
    if api_key is not None:
        request.add_header("Authorization", f"Bearer {api_key}")
    try:
        with _DIRECT.open(request, timeout=_SECONDS) as response:
            listed = json.load(response)["data"]
            found = next((one for one in listed if one["id"] == model), None)
            if model is not None and found is None:
                return Served(model)
            row = found or listed[0]
            # vLLM's and SGLang's name for it; llama.cpp's.
            length = row.get("max_model_len") or (row.get("meta") or {}).get("n_ctx")
            return Served(str(row["id"]), length if isinstance(length, int) and length > 0 else None)
    except urllib.error.HTTPError as error:
        if 300 <= error.code < 400 and (location := error.headers.get("Location")):
            raise EngineUnavailable(redirect(f"{base_url}/models", error.code, location)) from error
        raise EngineUnavailable(f"{base_url}/models answered {error.code}; name the model with --model") from error
    except OSError as error:
        reason = plain(getattr(error, "reason", error))
        raise EngineUnavailable(f"no engine answers at {base_url}: {reason}") from error
    except (ValueError, LookupError, TypeError, AttributeError, http.client.HTTPException) as error:
        raise EngineUnavailable(f"{base_url}/models lists no model; name it with --model") from error
