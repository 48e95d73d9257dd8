"""What an engine over HTTP is sent beside a prompt, by what is known of it, on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest

from abruzzi import EngineError, Message, SamplingParams, Tool
from abruzzi.engines.api import Api
from abruzzi.engines.base import Piece
from abruzzi.engines.completions import CompletionsEngine
from abruzzi.engines.llamacpp import LLAMACPP
from abruzzi.engines.sglang import SGLANG
from abruzzi.engines.trtllm import TRTLLM
from abruzzi.engines.vllm import VLLM
from abruzzi.engines.ways import Ways
from abruzzi.guide.grammar import Grammar
from abruzzi.protocol.prompt import Prompt
from abruzzi.protocol.template import render_prompt
from abruzzi.protocol.tokens import Tokenizer
from abruzzi.protocol.variants import K2_CONTROL_IDS
from tests.conftest import PING, WEATHER
from tests.engines.standins.serving import Reply, Standin, of_json
from tests.engines.wire import HI, STREAM, WHOLE, Answer, chunk, chunked, response, sse, wired

IDS = {spelling: id for id, spelling in K2_CONTROL_IDS.items()}
GRAMMAR = Grammar.for_turn([WEATHER, PING], tool_choice="required")


def ways(api: Api, constraint: int = 0) -> Ways:
    return Ways(api, "1", api.constraints[constraint], IDS)


async def held(
    engine: CompletionsEngine,
    grammar: Grammar = GRAMMAR,
    params: SamplingParams | None = None,
    prompt: Prompt = HI,
) -> list[Piece]:
    async with contextlib.aclosing(engine.complete(prompt, params or SamplingParams(), grammar)) as pieces:
        return [piece async for piece in pieces]


def asked(api: Api, constraint: int = 0, **params: Any) -> dict[str, Any]:
    """What such an engine is asked."""

    async def work() -> dict[str, Any]:
        async with wired(WHOLE, ways=ways(api, constraint)) as (engine, wire):
            assert (await held(engine, params=SamplingParams(**params)))[-1].guided
            return wire.asked[0]

    return asyncio.run(work())


def test_each_engine_is_told_the_grammar_in_its_own_field() -> None:
    assert asked(VLLM)["structured_outputs"] == {"grammar": GRAMMAR.lark_tokens}
    tag = asked(VLLM, 1)["structured_outputs"]["structural_tag"]
    assert json.loads(tag) == GRAMMAR.structural_tag(IDS)
    assert asked(SGLANG)["response_format"] == GRAMMAR.structural_tag(IDS)
    assert asked(SGLANG, 1)["ebnf"] == GRAMMAR.lark_tokens
    assert asked(TRTLLM)["response_format"] == GRAMMAR.structural_tag()
    assert asked(LLAMACPP)["grammar"] == GRAMMAR.gbnf


@pytest.mark.parametrize("api", [VLLM, SGLANG, TRTLLM])
def test_engines_stop_at_the_end_of_the_turn_by_its_id_and_show_special_tokens(api: Api) -> None:
    body = asked(api)
    assert body["stop_token_ids"] == [163586] and body["skip_special_tokens"] is False


def test_llama_server_has_another_name_for_the_repetition_penalty() -> None:
    body = asked(LLAMACPP, repetition_penalty=1.1)
    assert body["repeat_penalty"] == 1.1 and "repetition_penalty" not in body


SCHEMA_REFUSED = response(
    b'{"error": {"message": "Grammar error: too complex"}}', "400 Bad Request", "application/json"
)
FAILED = response(b"Internal Server Error", "500 Internal Server Error", "text/plain")
IN_STREAM = response(sse({"error": {"message": "grammar rejected tokens", "code": 500}}))


@pytest.mark.parametrize("refusal", [SCHEMA_REFUSED, FAILED, IN_STREAM])
def test_an_engine_that_refuses_a_grammar_is_asked_without_it_from_then_on(refusal: bytes) -> None:
    async def work() -> None:
        async with wired(refusing(refusal), ways=ways(VLLM)) as (engine, wire):
            for _ in range(2):
                pieces = await held(engine)
                assert "".join(piece.text for piece in pieces) == "Hello." and not pieces[-1].guided
            assert ["structured_outputs" in body for body in wire.asked] == [True, False, False]
            # Another grammar may be taken.
            await held(engine, Grammar.for_turn([PING]))
            assert "structured_outputs" in wire.asked[3]

    asyncio.run(work())


def refusing(refusal: bytes) -> Answer:
    async def answer(wire: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(refusal if "structured_outputs" in wire.asked[-1] else WHOLE)
        await writer.drain()

    return answer


def test_what_is_refused_without_a_grammar_too_says_nothing_of_the_grammar() -> None:
    async def work() -> None:
        async with wired(SCHEMA_REFUSED, ways=ways(VLLM)) as (engine, wire):
            for _ in range(2):
                with pytest.raises(EngineError, match="too complex"):
                    await held(engine)
            assert ["structured_outputs" in body for body in wire.asked] == [True, False, True, False]

    asyncio.run(work())


def test_what_has_begun_within_a_grammar_is_not_asked_again() -> None:
    async def dying(_: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + chunked(sse(chunk("Hel"), {"error": {"message": "CUDA"}})))
        await writer.drain()

    async def work() -> None:
        async with wired(dying, ways=ways(VLLM)) as (engine, wire):
            with pytest.raises(EngineError, match="CUDA"):
                await held(engine)
            assert len(wire.asked) == 1

    asyncio.run(work())


def test_a_grammar_is_for_the_beginning_of_a_turn_and_of_a_size_that_is_compiled_soon() -> None:
    many = [Tool(f"tool_{n}", None, {"type": "object", "properties": {"x" * 400: {}}}) for n in range(3000)]

    async def work() -> None:
        async with wired(WHOLE, ways=ways(VLLM, 1)) as (engine, wire):
            for grammar in (GRAMMAR.behind("Hello"), Grammar.for_turn(many, tool_choice="required")):
                assert not (await held(engine, grammar))[-1].guided
            assert not any("structured_outputs" in body for body in wire.asked)

    asyncio.run(work())


class VllmLike(Standin):
    """vLLM's paths, as far as they are asked; it always writes the same."""

    def __init__(self, events: bytes, owner: str = "vllm") -> None:
        super().__init__()
        self._events, self._owner = events, owner

    async def answer(self, method: str, path: str, body: bytes) -> Reply:
        if path == "/v1/models":
            return of_json({"data": [{"id": "kimi-k2", "owned_by": self._owner}]})
        if path == "/tokenize":
            text = json.loads(body)["prompt" if self._owner == "vllm" else "content"]
            return of_json({"tokens": sorted((IDS[one] for one in IDS if one in text), key=lambda id: at(text, id))})
        if path == "/v1/completions" and json.loads(body).get("stream"):
            self.note(asked=json.loads(body))
            return Reply(200, self._events, "text/event-stream")
        if path == "/v1/completions":
            ids = {"token_ids": [163597]} if json.loads(body).get("return_token_ids") else {}
            return of_json({"choices": [{"text": "<|tool_call_begin|>", **ids}]})
        return of_json({}, 404)


def at(text: str, id: int) -> int:
    return text.index(K2_CONTROL_IDS[id])


def test_with_its_tokenizer_an_engine_reads_and_tells_ids(shared: Any) -> None:
    tokenizer = Tokenizer.from_folder(shared / "k2")
    said = tokenizer.encode("Hällo.")
    events = [chunk("", token_ids=said[:1]), chunk("Hällo", token_ids=said[1:]), chunk("", "stop", token_ids=[163586])]
    prompt = render_prompt([Message("user", "<|im_end|>")], variant="k2")

    async def work(url: str) -> None:
        engine = CompletionsEngine(url, model="kimi-k2", variant=prompt.variant, tokenizer=tokenizer)
        await engine.settle()
        assert engine.capabilities.tokenizer is tokenizer and not engine.capabilities.constrains
        pieces = await held(engine, prompt=prompt)
        assert [id for piece in pieces for id in piece.ids] == [*said, 163586]
        # Where the engine looks for stop sequences in the text, the text counts.
        pieces = await held(engine, params=SamplingParams(stop=("x",)), prompt=prompt)
        assert not any(piece.ids for piece in pieces) and "".join(piece.text for piece in pieces) == "Hällo"
        await engine.aclose()

    with VllmLike(sse(*events, b"[DONE]")) as server:
        asyncio.run(work(server.url))
        first, second = server.asked
    assert first["prompt"] == second["prompt"] == tokenizer.encode_prompt(prompt)
    assert first["return_token_ids"] is True and "return_token_ids" not in second


def test_llama_server_reads_ids_and_tells_none(shared: Any) -> None:
    tokenizer = Tokenizer.from_folder(shared / "k2")
    prompt = render_prompt([Message("user", "<|im_end|>")], variant="k2")

    async def work(url: str) -> None:
        engine = CompletionsEngine(url, model="kimi-k2", variant=prompt.variant, tokenizer=tokenizer)
        await engine.settle()
        assert engine.capabilities.tokenizer is None
        assert "".join(piece.text for piece in await held(engine, prompt=prompt)) == "Hällo"
        await engine.aclose()

    with VllmLike(sse(chunk("Hällo", "stop"), b"[DONE]"), owner="llamacpp") as server:
        asyncio.run(work(server.url))
        (asked,) = server.asked
    assert asked["prompt"] == tokenizer.encode_prompt(prompt) and "max_tokens" not in asked
