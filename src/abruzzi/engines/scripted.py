"""An engine that says what it is told to: for tests, and for trying a client without a model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Literal

from abruzzi.engines.base import Capabilities, Piece, SamplingParams, Usage
from abruzzi.guide.grammar import Grammar
from abruzzi.protocol.prompt import Prompt
from abruzzi.protocol.variants import K2, Variant


class ScriptedEngine:
    """Plays one text a completion, cut into pieces; the last one again when there are no more.

    It obeys stop sequences and no grammar. `prompts` and `closed` record what was asked and how many completions were
    let go early.
    """

    def __init__(
        self,
        outputs: Sequence[str],
        *,
        variant: Variant = K2,
        cut: Callable[[str], Sequence[str]] = lambda text: [text],
        finish_reason: Literal["stop", "length"] = "stop",
        delay: float = 0.0,
    ) -> None:
        self.capabilities = Capabilities(model="scripted", variant=variant, constrains=False)
        self.prompts: list[Prompt] = []
        self.params: list[SamplingParams] = []
        self.closed = 0
        self._outputs = list(outputs)
        self._cut = cut
        self._finish_reason: Literal["stop", "length"] = finish_reason
        self._delay = delay

    async def complete(
        self, prompt: Prompt, params: SamplingParams, grammar: Grammar | None
    ) -> AsyncGenerator[Piece, None]:
        """Play the next text."""
        text = self._outputs[min(len(self.prompts), len(self._outputs) - 1)]
        self.prompts.append(prompt)
        self.params.append(params)
        stops = [(text.index(stop), stop) for stop in params.stop if stop in text]
        at, stop = min(stops, default=(len(text), None))
        text = text[:at]
        finished = False
        try:
            for piece in self._cut(text):
                await asyncio.sleep(self._delay)
                yield Piece(piece)
            finished = True
            yield Piece(finish_reason=self._finish_reason, usage=Usage(len(str(prompt)), len(text)), stop=stop)
        finally:
            self.closed += not finished

    async def aclose(self) -> None:
        """There is nothing to close."""
