"""OpenAI's `POST /v1/responses/input_tokens`: how long a prompt is, without an answer to it."""

from __future__ import annotations

import asyncio
from typing import Any

from abruzzi.engines.base import Capabilities
from abruzzi.server.exchange import Exchange
from abruzzi.server.intake import Intake
from abruzzi.server.message_count import count_tokens
from abruzzi.server.responses import Responses


class CountResponseTokens:
    """Answers `{"object": "response.input_tokens", "input_tokens": N}`, counted as Anthropic's `count_tokens` is. A
    request is refused as `POST /v1/responses` refuses it.
    """

    def __init__(self, responses: Responses, capabilities: Capabilities, intake: Intake) -> None:
        self._responses = responses
        self._capabilities = capabilities
        self._intake = intake

    async def __call__(self, exchange: Exchange) -> None:
        """Raises RequestError."""
        body = await self._intake.read(exchange, is_work=False)
        count = await asyncio.to_thread(self._count, body, exchange.key)  # takes a while for megabytes
        await exchange.answer_json(200, {"object": "response.input_tokens", "input_tokens": count})

    def _count(self, body: dict[str, Any], owner: bytes | None) -> int:
        request = self._responses.decode(body, self._capabilities.model, owner).request
        return count_tokens(request, self._capabilities)
