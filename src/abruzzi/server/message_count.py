"""Anthropic's `POST /v1/messages/count_tokens`: how long a prompt is, without an answer to it."""

from __future__ import annotations

import asyncio
from typing import Any

from abruzzi.chat import ChatRequest
from abruzzi.engines.asking import counter_of
from abruzzi.engines.base import Capabilities
from abruzzi.guide.schema import Schemas
from abruzzi.protocol.template import begun_turn, render_prompt
from abruzzi.server.dialect import Fields
from abruzzi.server.exchange import Exchange
from abruzzi.server.intake import Intake
from abruzzi.server.messages import request_of

# Of a token, on average, where nobody counts them.
_CHARACTERS = 4


class CountTokens:
    """Answers `{"input_tokens": N}`: exact where the engine's tokenizer is at hand, else its characters by four.

    The words that ask for an answer of a form aren't counted. A request is refused as `POST /v1/messages` refuses it,
    but that its conversation may end with calls.
    """

    def __init__(self, capabilities: Capabilities, intake: Intake) -> None:
        self._capabilities = capabilities
        self._intake = intake

    async def __call__(self, exchange: Exchange) -> None:
        """Raises RequestError."""
        body = await self._intake.read(exchange, is_work=False)
        count = await asyncio.to_thread(self._count, body)  # takes a while for megabytes
        await exchange.answer_json(200, {"input_tokens": count})

    def _count(self, body: dict[str, Any]) -> int:
        request = request_of(Fields(body), self._capabilities.variant, answers=False)
        return count_tokens(request, self._capabilities)


def count_tokens(request: ChatRequest, capabilities: Capabilities) -> int:
    """The length of the prompt that the model would read. Raises RequestError for what it wouldn't be asked."""
    Schemas(request.tools)
    prompt = render_prompt(
        request.messages,
        tools=request.tools if request.callable_tools() else (),
        variant=capabilities.variant,
        thinking=request.thinking,
    )
    if request.begun is not None:
        prompt = prompt.going_on(begun_turn(request.begun, capabilities.variant, thinking=request.thinking))
    counter = counter_of(capabilities)
    if counter is not None:
        return counter.count(prompt)
    return -(-len(str(prompt)) // _CHARACTERS)
