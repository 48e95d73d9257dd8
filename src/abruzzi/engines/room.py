"""How many tokens an engine may write where the client sets no limit: what the prompt leaves of its context."""

from __future__ import annotations

import asyncio

from abruzzi.engines.api import Api
from abruzzi.engines.base import Capabilities
from abruzzi.engines.ways import Asker
from abruzzi.protocol.prompt import Prompt, raw_prompt

# The limit where the context isn't known: engines that are asked for none stop at 16 tokens, as the first of OpenAI's.
_MAX_TOKENS = 4096
# Where the prompt's length is a guess.
_LEAST_TOKENS = 256
# What an engine may put before a prompt by itself, or keep for tokens that it guesses ahead.
_SPARE = 64


def room(prompt: Prompt, text: str, api: Api, capabilities: Capabilities, *, by_id: bool) -> int | None:
    """The limit: of a short prompt at least half of the context. Engines refuse one that goes beyond it. None for an
    engine that sees to that by itself. `text`: the prompt's; `by_id`: whether it goes out as ids all the same.
    """
    context, counter = capabilities.context_length, capabilities.counter
    if api.unlimited:
        return None
    if context is None:
        return _MAX_TOKENS
    most = len(text.encode())  # no token is less than a byte
    if 2 * most <= context:
        return context - most
    if counter is not None:
        sent = prompt if by_id else raw_prompt(text, prompt.variant)
        return _left(context - counter.count(sent))
    # Two bytes a token is little: of English it is four.
    return max(_LEAST_TOKENS, min(_MAX_TOKENS, context - most // 2))


def is_tight(prompt: Prompt, api: Api, capabilities: Capabilities) -> bool:
    """Whether the prompt may take more than half of the context, and only the engine can tell how much."""
    context = capabilities.context_length
    if context is None or capabilities.counter is not None or api.tokenize is None or api.unlimited:
        return False
    characters = sum(map(len, prompt.parts))  # four bytes each, at most
    return 8 * characters > context and 2 * sum(len(part.encode()) for part in prompt.parts) > context


async def room_counted(prompt: Prompt, api: Api, capabilities: Capabilities, asker: Asker) -> int | None:
    """The limit, as the engine itself counts the prompt; None where it doesn't tell."""
    context, tokenize = capabilities.context_length, api.tokenize
    if context is None or tokenize is None:
        return None
    path, body = tokenize(capabilities.model, await asyncio.to_thread(str, prompt))
    _, told = await asker.post(path, body)
    ids = told.get("tokens") if isinstance(told, dict) else None
    return _left(context - len(ids)) if isinstance(ids, list) else None


def _left(tokens: int) -> int:
    """Of what a prompt leaves, so many."""
    return max(1, tokens - min(_SPARE, tokens // 2))
