"""A server that offers no more than OpenAI's `/v1/chat/completions`, as hosts of K2 do: it renders the conversation and
parses the calls by itself, and what it makes of them is read here like any engine's output.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import Any

import msgspec

from abruzzi.engines.base import Capabilities, Piece, SamplingParams
from abruzzi.engines.chat_output import ChatOutput
from abruzzi.engines.refusal import Refused
from abruzzi.engines.remote import Remote, encoded
from abruzzi.guide.grammar import Grammar
from abruzzi.protocol.errors import RequestError
from abruzzi.protocol.messages import Message
from abruzzi.protocol.prompt import Conversation, Prompt, escape
from abruzzi.protocol.tokens import Tokenizer
from abruzzi.protocol.variants import Variant

# How a model that thinks is told not to: Moonshot's own API; vLLM and SGLang.
_NO_THINKING = {"thinking": {"type": "disabled"}, "chat_template_kwargs": {"thinking": False}}


class ChatEngine(Remote):
    """A chat behind a URL. It is given no grammar and no alternatives are asked of it, and where it is to go on behind
    what stands it is asked the same conversation anew: of its answer what stands is left out.
    """

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
        """As of a `CompletionsEngine`; `tokenizer` is for counting."""
        super().__init__(base_url, timeout, api_key)
        self.capabilities = Capabilities(
            model=model,
            variant=variant,
            constrains=False,
            continues=False,
            context_length=context_length,
            counter=tokenizer,
        )
        self._takes_choice = True

    def told(self) -> Sequence[tuple[str, bool]]:
        """What it is, in words, and whether something had better be changed."""
        return [("offers chat alone: the guard keeps calls valid, by asking the whole conversation again", False)]

    async def complete(
        self, prompt: Prompt, params: SamplingParams, grammar: Grammar | None
    ) -> AsyncGenerator[Piece, None]:
        """Answer the prompt's conversation; raises RequestError where it has none. A host that doesn't take a
        `tool_choice` is asked without one: the guard knows what is due.
        """
        conversation = prompt.conversation
        if conversation is None:
            raise RequestError(
                f"expected messages: {self.url} offers chat alone, and takes no prompt as it stands", "prompt"
            )
        has_choice = bool(conversation.tools) and conversation.tool_choice != "auto" and self._takes_choice
        has_begun = False
        try:
            async with contextlib.aclosing(self._pieces(prompt, params, has_choice=has_choice)) as pieces:
                async for piece in pieces:
                    has_begun = True
                    yield piece
            return
        except Refused:
            if has_begun or not has_choice:
                raise
        async with contextlib.aclosing(self._pieces(prompt, params, has_choice=False)) as pieces:
            async for piece in pieces:
                self._takes_choice = False  # so that was what it refused
                yield piece

    def _pieces(self, prompt: Prompt, params: SamplingParams, *, has_choice: bool) -> AsyncGenerator[Piece, None]:
        make = partial(self._body, prompt, params, has_choice=has_choice)
        return self._answer("/chat/completions", prompt, make, ChatOutput(params, prompt))

    def _body(self, prompt: Prompt, params: SamplingParams, *, has_choice: bool) -> bytes:
        conversation, row = prompt.conversation, prompt.variant
        assert conversation is not None
        tools = [tool.to_openai() for tool in conversation.tools]
        is_single = tools and not conversation.parallel_tool_calls
        return encoded(
            {
                "model": self.capabilities.model,
                "messages": _plain([_message(one, row) for one in conversation.messages], row),
                "tools": _plain(tools, row) if tools else None,
                "tool_choice": _choice(conversation) if has_choice else None,
                "parallel_tool_calls": False if is_single else None,
                "max_tokens": params.max_tokens,
                "temperature": params.temperature,
                "top_p": params.top_p,
                "seed": params.seed,
                "frequency_penalty": params.frequency_penalty,
                "presence_penalty": params.presence_penalty,
                # Not OpenAI's: what knows only its fields refuses these, or does nothing about them.
                "repetition_penalty": params.repetition_penalty,
                "top_k": params.top_k,
                "min_p": params.min_p,
                "logit_bias": {str(id): bias for id, bias in params.logit_bias} or None,
                "stop": params.stop or None,
                "stream": True,
                "stream_options": {"include_usage": True},
                **(_NO_THINKING if row.thinks and conversation.thinking is False else {}),
            }
        )


def _message(message: Message, row: Variant) -> dict[str, Any]:
    told = message.to_openai()
    if not row.thinks:
        told.pop("reasoning_content", None)
    return told


def _choice(conversation: Conversation) -> Any:
    if conversation.tool_choice == "required":
        return "required"
    return {"type": "function", "function": {"name": conversation.tool_choice}}


def _plain(value: Any, row: Variant) -> msgspec.Raw:
    """In JSON, of which no text spells a control token: hosts read those in whatever they are sent."""
    return msgspec.Raw(escape(encoded(value).decode(), row).encode())
