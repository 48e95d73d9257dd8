"""What an engine's refusal means: whose fault it is, and whether another engine would say the same."""

from __future__ import annotations

import json
import re
import time
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urljoin, urlsplit

from abruzzi.protocol.errors import AbruzziError, EngineError, EngineTimeout, EngineUnavailable, PromptTooLong

_SHOWN = 500
# Seconds: whoever asks to be left alone for longer is asked again all the same.
_LONGEST_WAIT = 3600.0
# How engines say that a prompt, or a prompt and its max_tokens, is longer than what the model reads: vLLM, SGLang,
# TensorRT-LLM, llama.cpp, OpenAI.
_TOO_LONG = re.compile(
    r"context[ _](?:length|size|window)|max(?:imum)?[ _](?:model|input|seq\w*)[ _]len|max_num_tokens"
    r"|default_max_tokens|longer than the model",
    re.IGNORECASE,
)


class Refused(EngineError):
    """The engine won't take this request. It is well, and others of its kind would say the same."""

    code = "engine_refused"

    def __init__(self, told: str, said: str = "", param: str | None = None) -> None:
        """`said`: the engine's own words; `param`: the parameter that it names beside them."""
        super().__init__(told)
        self.said, self._param = said, param

    def names(self, parameter: str) -> bool:
        """Whether it speaks of this parameter; `stop` is a word that comes in any sentence."""
        if self._param is not None:
            return parameter in re.split(r"[.\[\]]", self._param)
        if parameter != "stop":
            return re.search(rf"\b{parameter}\b", self.said, re.IGNORECASE) is not None
        spelled = (
            rf"[`'\"]{parameter}[`'\"]|\b{parameter}\b *[:=]"
            rf"|\b(?:parameter|argument|field)s?\b[^.]{{0,20}}\b{parameter}\b"
        )
        return re.search(spelled, self.said) is not None


class Failed(EngineError):
    """The engine is there, and failed at this request. Whose fault that is, another engine or another request tells."""

    answered: int | None = None
    """The status of its answer, where it is one that isn't 200."""


def refusal(url: str, status: int, body: str, retry_after: str = "", location: str = "") -> AbruzziError:
    """What an answer that isn't 200 comes to. `retry_after`, `location`: its headers of these names."""
    if location and 300 <= status < 400:
        return Failed(redirect(url, status, location))
    message, code, param = _told(body)
    said = message[:_SHOWN]
    told = f"{url} answered {status}: {said}"
    if status in (400, 413, 422):
        if _TOO_LONG.search(f"{message} {code}"):
            return PromptTooLong(f"the conversation doesn't fit the engine: {said}")
        return Refused(told, said, param)
    if status in (429, 503):
        return EngineUnavailable(told, seconds_of(retry_after))
    if status in (408, 504):
        return EngineTimeout(told)
    failed = Failed(told)
    failed.answered = status
    return failed


def redirect(url: str, status: int, location: str) -> str:
    """What is told of an answer that sends its client elsewhere."""
    try:
        parts = urlsplit(urljoin(url, location))
        # All else may hold a secret.
        target = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"[:_SHOWN]
    except ValueError:
        target = "what is no URL"
    told = f"{url} answered {status}: it redirects to {target}, which isn't followed"
    path = f"/{url.rpartition('/v1/')[2]}"
    base = target.removesuffix(path)
    if base in (target, url.removesuffix(path)):
        return f"{told}; expected an engine that answers itself"
    return f"{told}; name it with --engine {base}"


def seconds_of(retry_after: str) -> float | None:
    """How long a `Retry-After`, seconds or a date, asks to wait. None where it says nothing that makes sense."""
    value = retry_after.strip()
    try:
        if value.isascii() and value.isdigit():
            seconds = float(value)
        else:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, OverflowError, OSError):
        return None
    return min(max(0.0, seconds), _LONGEST_WAIT)


def words(body: str) -> str:
    """The message inside an error's body, cut where it is long."""
    return _told(body)[0][:_SHOWN]


def _told(body: str) -> tuple[str, str, str | None]:
    """The message, what kind of error it is, and the parameter that it names, in any of the shapes that engines use:
    OpenAI's object, a string in its place, TensorRT-LLM's flat one, FastAPI's `detail`, which holds what was asked
    beside what is wrong with it.
    """
    try:
        error: Any = json.loads(body)
        error = error.get("error") or error.get("detail") or error
        if isinstance(error, list):
            return "; ".join(f"{_place(one)}{one['msg']}" for one in error), "", None
        if isinstance(error, str):
            return error, "", None
        param = error.get("param")
        kind = f"{error.get('code')} {error.get('type')}"
        return str(error.get("message", body)), kind, param if isinstance(param, str) and param else None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return body, "", None


def _place(error: Any) -> str:
    """Of FastAPI's, behind what is wrong: `("body", "top_k")`."""
    place = error.get("loc")
    if not isinstance(place, list):
        return ""
    return "".join(f"{one}: " for one in place if one != "body")
