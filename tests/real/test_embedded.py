"""The embedded engine with its real weights."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abruzzi import Agent, ChatRequest, EngineUnavailable, Message, RequestError, SamplingParams, Tool, chat, connect
from abruzzi.chat import Report
from abruzzi.engines.base import Engine, Piece
from abruzzi.engines.local import engine
from abruzzi.engines.local.engine import LocalEngine
from abruzzi.engines.local.weights import SMOLLM2
from abruzzi.example_tools import get_weather
from abruzzi.guide import accepts
from abruzzi.guide.schema import Schemas
from abruzzi.protocol.prompt import Prompt
from abruzzi.protocol.template import render_prompt
from tests.conftest import PING, WEATHER

SHANGHAI = "What's the weather like in shanghai today?"
HARD = Tool(
    "plan",
    "Plan a trip.",
    {
        "type": "object",
        "properties": {
            "stops": {
                "type": "array",
                "items": {"type": "object", "properties": {"city": {"type": "string"}, "nights": {"type": "integer"}},
                          "required": ["city", "nights"]},
                "minItems": 1,
                "maxItems": 3,
            },
            "budget": {"type": "number", "minimum": 1, "maximum": 1000},
            "class": {"enum": ["economy", "business"]},
        },
        "required": ["stops", "budget", "class"],
    },
)  # fmt: skip


def ask(engine: Engine, text: str, **options: Any) -> tuple[Message, Report]:
    request = ChatRequest((Message("user", text),), **options)
    return asyncio.run(chat.complete(engine, request))


def test_it_calls_the_tool_reads_the_result_and_answers(embedded: Engine) -> None:
    run = Agent(tools=[get_weather], engine=embedded).run(SHANGHAI)
    (call,) = run.turns[0].tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments)["location"].lower() == "shanghai"
    assert run.turns[0].results[0].content == "Cloudy"
    assert run.answer is not None and "cloud" in run.answer.lower()


def test_what_the_grammar_forces_is_not_generated(embedded: Engine) -> None:
    _, report = ask(embedded, SHANGHAI, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False)
    assert report.usage.forced > 2 * (report.usage.completion - report.usage.forced)


@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("output", ["tool_calls", "raw", "pythonic"])
def test_every_call_is_valid_however_unlikely(embedded: Engine, temperature: float, output: Any) -> None:
    """At a high temperature and with a question that has nothing to do with the tool, the grammar does all the work."""
    tools = [HARD, PING]
    for seed in range(3):
        params = SamplingParams(max_tokens=300, temperature=temperature, seed=seed)
        message, report = ask(
            embedded, "Why is the sky blue?", tools=tools, tool_choice="plan", output=output, params=params
        )
        assert report.guided and not report.resumes
        if message.finish_reason == "length":
            assert [problem.kind for problem in report.problems] == ["truncated"]
            continue
        assert not report.problems
        for call in message.tool_calls:
            assert Schemas(tools).fault(call.function.name, call.function.arguments) is None
        assert message.content if output != "tool_calls" else message.tool_calls


def test_equal_seeds_give_equal_output_once_the_prompt_is_cached(embedded: Engine) -> None:
    """llama.cpp's numbers depend on how many tokens it reads at once, so a first reading may differ."""
    params = SamplingParams(max_tokens=40, temperature=1.0, seed=7)
    _, *outputs = [ask(embedded, "Tell me something.", params=params)[1].output for _ in range(3)]
    assert len(set(outputs)) == 1


def test_many_requests_at_once_are_all_answered(embedded: Engine) -> None:
    async def all_at_once() -> list[tuple[Message, Report]]:
        request = ChatRequest((Message("user", SHANGHAI),), [WEATHER], tool_choice="required")
        return await asyncio.gather(*(chat.complete(embedded, request) for _ in range(12)))

    for message, _ in asyncio.run(all_at_once()):
        assert message.tool_calls


def test_a_conversations_prefix_is_read_once(embedded: Engine) -> None:
    first = Message("user", "Name a colour, please, and say why you like it.")
    message, _ = asyncio.run(chat.complete(embedded, ChatRequest((first,))))
    second = ChatRequest((first, message, Message("user", "Another one.")))
    _, report = asyncio.run(chat.complete(embedded, second))
    assert report.usage.cached > report.usage.prompt - 20


def test_a_caller_who_leaves_frees_the_engine_at_once(embedded: Engine) -> None:
    async def leave() -> None:
        request = ChatRequest((Message("user", "Count to a thousand."),), params=SamplingParams(max_tokens=1000))
        async with contextlib.aclosing(chat.stream(embedded, request)) as items:
            await anext(items)

    async def everybody_leaves() -> float:
        await asyncio.gather(*(leave() for _ in range(8)))
        begun = time.monotonic()
        await chat.complete(embedded, ChatRequest((Message("user", "Hi"),), params=SamplingParams(max_tokens=1)))
        return time.monotonic() - begun

    # Eight times 1,000 tokens would take minutes.
    assert asyncio.run(everybody_leaves()) < 10


@pytest.mark.parametrize("max_tokens", range(17, 21))
def test_characters_of_several_tokens_come_whole_wherever_the_text_is_cut(embedded: Engine, max_tokens: int) -> None:
    prompt = Prompt(("ñandú 上海天气 🎉 " * 6,), embedded.capabilities.variant, 0)

    params = SamplingParams(max_tokens=max_tokens, logit_bias=tuple((id, -100.0) for id in range(3)))  # it can't end

    async def pieces() -> list[Piece]:
        async with asyncio.timeout(60):
            return [piece async for piece in embedded.complete(prompt, params, None)]

    *texts, last = asyncio.run(pieces())
    text = "".join(piece.text for piece in texts)
    assert len(text.encode()) > len(text) > 3 and "\ufffd" not in text
    assert last.finish_reason == "length" and last.usage is not None and last.usage.completion == max_tokens


def test_a_conversation_that_does_not_fit_is_refused_with_its_length(embedded: Engine) -> None:
    with pytest.raises(RequestError, match=r"tokens long, the model reads 8192"):
        ask(embedded, "word " * 10_000)


def test_a_long_run_of_white_space_is_refused_with_its_length_too(embedded: Engine) -> None:
    with pytest.raises(RequestError, match=r"conversation is \d+ tokens long"):
        ask(embedded, " " * 1_100_000 + "x")


def test_the_loop_goes_on_while_a_prompt_is_encoded(embedded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    went_on, encode = threading.Event(), embedded._tokenizer.encode

    def encode_after_the_loop_went_on(prompt: Prompt) -> list[int]:
        assert went_on.wait(10)
        return encode(prompt)  # type: ignore[no-any-return]

    async def main() -> None:
        asyncio.get_running_loop().call_later(0.05, went_on.set)
        await chat.complete(embedded, ChatRequest((Message("user", "Hi"),), params=SamplingParams(max_tokens=1)))

    monkeypatch.setattr(embedded._tokenizer, "encode", encode_after_the_loop_went_on)
    asyncio.run(main())


# Fragments that tokenizers stumble over; SmolLM2 has no token for some bytes of the last three.
ODD = ["What's", "'LL", "it'll", "\u017f", " ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000", "\u0085", "\u200b", "5",
       "\x1c", "12,345", "Ⅷ", "½", "٣", "上海", "ñ", "n\u0303", "नमस्ते", "🎉", "👨\u200d👩", "__init__", "!!", ".", "x",
       "<|im_end|>", "\x04", "\x1d", "\U00050000"]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(text=st.lists(st.sampled_from(ODD) | st.characters(codec="utf-8"), max_size=8).map("".join))
def test_text_gets_the_ids_that_llama_cpp_gives_it(embedded: Any, text: str) -> None:
    tokenizer, address = embedded._tokenizer, urlsplit(embedded._server.listening_address)
    with contextlib.closing(HTTPConnection(address.hostname, address.port)) as connection:
        body = json.dumps({"content": text, "add_special": False, "parse_special": False})
        key = {"Authorization": f"Bearer {embedded._key}"}
        connection.request("POST", "/tokenize", body, {"Content-Type": "application/json", **key})
        expected = json.load(connection.getresponse())["tokens"]
    assert tokenizer.encode(Prompt((text,), embedded.capabilities.variant, 0)) == expected


def test_llama_cpps_own_port_is_for_nobody(embedded: Any) -> None:
    address = urlsplit(embedded._server.listening_address)
    with contextlib.closing(HTTPConnection(address.hostname, address.port)) as connection:
        connection.request("POST", "/tokenize", "{}", {"Content-Type": "application/json"})
        assert connection.getresponse().status == 401


def test_control_tokens_in_content_stay_text(embedded: Any) -> None:
    tokenizer = embedded._tokenizer
    ids = tokenizer.encode(render_prompt([Message("user", "<|im_end|>")], variant="smollm2"))
    assert ids.count(tokenizer.controls["<|im_end|>"]) == 2


def test_requests_that_fill_the_cache_together_take_turns(embedded: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_CACHE", 512)
    small = connect()

    async def ask_one(number: int) -> Message:
        request = ChatRequest(
            (Message("user", f"{number} " + "word " * 200),), [PING], tool_choice="required" if number % 2 else "none"
        )
        message, _ = await chat.complete(small, replace(request, params=SamplingParams(max_tokens=40)))
        return message

    async def all_at_once() -> None:
        await asyncio.gather(*(ask_one(number) for number in range(6)))
        await small.aclose()

    asyncio.run(all_at_once())


def test_who_waits_for_a_closed_engine_is_told(embedded: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_CACHE", 512)
    small: Any = connect()

    async def main() -> None:
        taken = await small._slots.take((), 512)
        waiting = asyncio.create_task(chat.complete(small, ChatRequest((Message("user", "Hi"),))))
        await asyncio.sleep(0.2)
        await small.aclose()
        small._slots.give_back(taken, ())
        with pytest.raises(EngineUnavailable, match="closed"):
            await asyncio.wait_for(waiting, 10)

    asyncio.run(main())


def test_weights_that_are_not_the_known_ones_to_the_byte_lose_the_adapter_aloud(
    embedded: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(SMOLLM2.path.read_bytes() + b"x")
    asyncio.run(connect(model=str(path)).aclose())
    assert f"{path} is not smollm2-135m, byte for byte" in caplog.text


def test_a_broken_weights_file_is_refused_in_a_line(tmp_path: Any) -> None:
    for content in (b"", b"GGUF", b"not a model", b"GGUF\x03\x00\x00\x00" + b"\xff" * 64):
        path = tmp_path / "broken.gguf"
        path.write_bytes(content)
        with pytest.raises(EngineUnavailable) as caught:
            connect(model=str(path))
        assert "\n" not in str(caught.value) and "broken.gguf" in str(caught.value)


def test_a_truncated_weights_file_is_refused_in_a_line(embedded: Engine, tmp_path: Any) -> None:
    path = tmp_path / "short.gguf"
    path.write_bytes(SMOLLM2.path.read_bytes()[:50_000_000])
    with pytest.raises(EngineUnavailable, match=r"can't load .*short\.gguf"):
        LocalEngine.load(path, None, name="short")


def test_text_ends_before_a_stop_sequence_even_one_that_spans_tokens(embedded: Engine) -> None:
    def answer(stop: tuple[str, ...]) -> Message:
        prompt = "Say: one two three four five six seven eight."
        return ask(embedded, prompt, params=SamplingParams(max_tokens=40, stop=stop))[0]

    answer(())  # from here on the prompt is in the cache: what is read in another way gives other numbers
    whole = answer(()).content or ""
    stop = whole[len(whole) // 2 : len(whole) // 2 + 5]
    message = answer(("never", stop))
    assert message.content == whole[: whole.index(stop)]
    assert message.finish_reason == "stop"


def test_it_samples_as_it_is_asked_to(embedded: Engine) -> None:
    def answer(**params: Any) -> str:
        asked = SamplingParams(max_tokens=24, seed=1, **params)
        return ask(embedded, "Write a short poem about rain.", params=asked)[0].content or ""

    answer()
    likeliest = answer()
    for penalty in ("frequency_penalty", "presence_penalty", "repetition_penalty"):
        assert answer(**{penalty: 2.0}) != likeliest
    assert answer(temperature=2.0) != likeliest
    assert answer(temperature=2.0, top_k=1) == answer(temperature=2.0, min_p=1.0) == likeliest
    assert len(set(answer(logit_bias=((500, 100.0),)).split("ast"))) == 1  # token 500, and no other
    with pytest.raises(RequestError, match=r"below 49152, got 49152 \(at logit_bias\)"):
        answer(logit_bias=((49_152, 1.0),))


def test_a_bias_doesnt_lead_out_of_a_grammar(embedded: Engine) -> None:
    short = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 20}}, "required": ["a"]}
    tool = Tool("f", None, short)
    for bias in (100.0, -100.0):  # on the token 500, and against those of single characters
        biases = ((500, bias), *((id, -100.0) for id in range(28, 128)))
        params = SamplingParams(logit_bias=biases, max_tokens=200)
        message, _ = ask(embedded, "Hello", tools=[tool], tool_choice="f", parallel_tool_calls=False, params=params)
        assert Schemas([tool]).fault("f", message.tool_calls[0].function.arguments) is None


def test_characters_that_take_several_tokens_are_guided_too(embedded: Engine) -> None:
    properties = {"a": {"type": "string", "pattern": "^[一-龥]{3}$"}, "b": {"enum": ["𒀀𒀁", "ꙮꙮ"]}}
    tool = Tool("f", None, {"type": "object", "properties": properties, "required": ["a", "b"]})
    for temperature in (0.0, 1.5):
        params = SamplingParams(temperature=temperature, seed=3, max_tokens=200)
        message, _ = ask(embedded, "Hello", tools=[tool], tool_choice="f", parallel_tool_calls=False, params=params)
        assert Schemas([tool]).fault("f", message.tool_calls[0].function.arguments) is None


def test_an_answer_has_the_form_that_is_asked_for(embedded: Engine) -> None:
    city = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 40}, "size": {"enum": ["small", "large"]}},
        "required": ["name", "size"],
    }
    for tools in ((), (WEATHER,)):
        request = ChatRequest([Message("user", "Name a city in Italy.")], tools, answer=city, tool_choice="auto")
        message, report = asyncio.run(chat.complete(embedded, request))
        assert report.guarantee == "guided"
        assert message.tool_calls or accepts(city, message.content or "")
