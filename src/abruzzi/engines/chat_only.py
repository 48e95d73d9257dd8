"""A server that offers no more than OpenAI's `/v1/chat/completions`, as hosts of K2 do: it renders the conversation and
parses the calls by itself, and what it makes of them is read here like any engine's output.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Collection, Sequence
from functools import partial
from typing import Any

import msgspec

from abruzzi.engines.base import Capabilities, Piece, SamplingParams, name_of
from abruzzi.engines.chat_output import ChatOutput
from abruzzi.engines.refusal import Failed, Refused
from abruzzi.engines.remote import Remote, encoded
from abruzzi.guide.grammar import Grammar
from abruzzi.protocol.errors import RequestError
from abruzzi.protocol.messages import Message
from abruzzi.protocol.prompt import Conversation, Prompt, escape
from abruzzi.protocol.tokens import Tokenizer
from abruzzi.protocol.variants import Variant

logger = logging.getLogger(__name__)

# How a model that thinks is told not to: Moonshot's own API; vLLM and SGLang.
_NO_THINKING = {"thinking": {"type": "disabled"}, "chat_template_kwargs": {"thinking": False}}


# What not all hosts take, and an answer can be had without; and for how long it is remembered, in seconds.
_DISPENSABLE = ("tool_choice", "stream_options")
_KNOWN_SECONDS = 300.0
# What a host may answer to fields that it doesn't take, beside 400 and 422: OpenRouter has no endpoint then.
_NO_SUCH_THING = (404, 501)


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
        self._refused: dict[str, float] = {}  # fields that it isn't given, and until when
        self._has_told = False

    def told(self) -> Sequence[tuple[str, bool]]:
        """What it is, in words, and whether something had better be changed."""
        return [("offers chat alone: the guard keeps calls valid, by asking the whole conversation again", False)]

    async def complete(
        self, prompt: Prompt, params: SamplingParams, grammar: Grammar | None
    ) -> AsyncGenerator[Piece, None]:
        """Answer the prompt's conversation; raises RequestError where it has none. A host that refuses what not all of
        them take is asked without: the guard knows which call is due, and tokens are counted here.
        """
        conversation = prompt.conversation
        if conversation is None:
            raise RequestError(
                "expected messages: the engine offers chat alone, and takes no prompt as it stands", "prompt"
            )
        asked = _DISPENSABLE if conversation.tools and conversation.tool_choice != "auto" else _DISPENSABLE[1:]
        if params.least_temperature:
            asked = ("temperature", *asked)
        known = {name for name in asked if time.monotonic() < self._refused.get(name, 0.0)}
        dispensable = [name for name in asked if name not in known]
        for count in range(len(dispensable) + 1):
            output = ChatOutput(params, prompt)
            make = partial(self._body, prompt, params, without=known.union(dispensable[:count]))
            has_begun = False
            try:
                async with contextlib.aclosing(self._answer("/chat/completions", prompt, make, output)) as pieces:
                    async for piece in pieces:
                        if not has_begun:  # so that was what it refused
                            self._note_refused(dispensable[:count])
                            has_begun = True
                        yield piece
                return
            except (Refused, Failed) as error:
                is_refused = isinstance(error, Refused) or error.answered in _NO_SUCH_THING
                if has_begun or count == len(dispensable) or not is_refused:
                    raise
            finally:
                self._tell_of_reasoning(output)

    def _note_refused(self, names: Sequence[str]) -> None:
        until = time.monotonic() + _KNOWN_SECONDS  # it may have been something else, after all
        self._refused.update(dict.fromkeys(names, until))

    def _tell_of_reasoning(self, output: ChatOutput) -> None:
        if output.drops_reasoning and not self._has_told:
            self._has_told = True
            logger.warning(
                "the model at %s reasons, which variant %s doesn't: what it thinks is left out; "
                "expected --variant k2-thinking or k2.5",
                name_of(self),
                self.capabilities.variant.name,
            )

    def _body(self, prompt: Prompt, params: SamplingParams, *, without: Collection[str]) -> bytes:
        conversation, row = prompt.conversation, prompt.variant
        assert conversation is not None
        tools = [tool.to_openai() for tool in conversation.tools]
        is_single = tools and not conversation.parallel_tool_calls
        body = {
            "model": self.capabilities.model,
            "messages": _plain([_message(one, row) for one in conversation.messages], row),
            "tools": _plain(tools, row) if tools else None,
            "tool_choice": _choice(conversation) if tools and conversation.tool_choice != "auto" else None,
            "parallel_tool_calls": False if is_single else None,
            "max_tokens": params.max_tokens,
            "temperature": params.temperature if "temperature" in without else params.heat,
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
        return encoded({name: value for name, value in body.items() if name not in without or name == "temperature"})


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
