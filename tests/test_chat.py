from __future__ import annotations

import asyncio
import contextlib
import json
import lzma
import random
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from abruzzi import ChatRequest, EngineError, Message, OutputError, RequestError, SamplingParams, Tool, chat, parse
from abruzzi.chat import Report
from abruzzi.engines.base import Piece
from abruzzi.engines.scripted import ScriptedEngine
from abruzzi.guide.schema import Schemas
from abruzzi.protocol.events import ContentDelta, Event
from abruzzi.protocol.markers import CALL_END, MARKERS, SECTION_BEGIN, SECTION_END
from abruzzi.protocol.prompt import Prompt, escape, going_on
from abruzzi.protocol.tokens import Tokenizer
from abruzzi.protocol.variants import K2, K2_5, K2_THINKING, Variant
from tests.conftest import PING, WEATHER, section

ASK = (Message("user", "Weather in Shanghai?"),)
PYTHONIC = "[get_weather(location='shanghai')]"
GOOD = section(("functions.get_weather:0", '{"location": "shanghai"}'))
BAD = section(("functions.get_weather:0", '{"location": 1}'))
OTHER = section(("functions.ping:0", "{}"))


def complete(engine: ScriptedEngine, **options: Any) -> tuple[Message, Report]:
    options = {"messages": ASK, "tools": [WEATHER, PING], **options}
    return asyncio.run(chat.complete(engine, ChatRequest(**options)))


def test_a_call_comes_out_with_an_id_that_counts_over_the_conversation() -> None:
    history = [*ASK, Message(tool_calls=complete(ScriptedEngine([GOOD]))[0].tool_calls)]
    message, report = complete(ScriptedEngine([GOOD]), messages=history)
    assert [call.id for call in message.tool_calls] == ["functions.get_weather:1"]
    assert message.finish_reason == "tool_calls"
    assert (report.output, report.guided) == (GOOD, False)


def test_without_tools_the_text_comes_out_as_it_is_markers_included() -> None:
    message, _ = complete(ScriptedEngine([GOOD]), tools=())
    assert (message.content, message.tool_calls, message.finish_reason) == (GOOD, (), "stop")


@pytest.mark.parametrize("row", [K2, K2_THINKING])
@pytest.mark.parametrize("cut", [list, lambda text: [text]])
def test_without_tools_the_text_ends_where_the_turn_does_and_so_does_the_engine(cut: Any, row: Variant) -> None:
    said = "\nif a < b <|im_"
    engine = ScriptedEngine([f"{said}<|im_end|>{'x' * 1000}"], cut=cut, variant=row, finish_reason="length")
    message, report = complete(engine, tools=(), params=SamplingParams(max_tokens=2000))
    assert (message.content, message.finish_reason) == (said, "stop")
    assert cut is not list or (engine.closed == 1 and report.output == f"{said}<|im_end|>")
    assert complete(ScriptedEngine([said], cut=cut, variant=row), tools=())[0].content == said
    message, _ = complete(engine, tools=(), messages=(), prompt="Hi")
    assert message.content == f"{said}<|im_end|>{'x' * 1000}"


def test_what_was_held_back_of_a_text_keeps_its_logprobs() -> None:
    class Telling(ScriptedEngine):
        async def complete(self, *asked: Any) -> AsyncGenerator[Piece, None]:
            async for piece in super().complete(*asked):
                yield msgspec.structs.replace(piece, logprob=-1.0)

    engine = Telling(["\n<p> <|im_end|>", "a <|im"], cut=list)
    for expected in ("\n<p> ", "a <|im"):
        message, report = complete(engine, tools=(), params=SamplingParams(logprobs=0))
        assert "".join(one.token for one in report.logprobs) == message.content == expected


def test_an_output_that_is_none_is_refused() -> None:
    with pytest.raises(RequestError, match=r"got 'xml' \(at output\)"):
        ChatRequest(ASK, output="xml")  # type: ignore[arg-type]


class Continuing(ScriptedEngine):
    """Writes `first`, and when it is asked to go on from a part of `whole`, the rest of that; else `first` again."""

    def __init__(self, first: str, whole: str, **options: Any) -> None:
        super().__init__([first], **options)
        self.whole = whole

    async def complete(self, prompt: Prompt, params: SamplingParams, grammar: Any) -> AsyncGenerator[Piece, None]:
        written = str(prompt).rpartition("assistant<|im_middle|>")[2]
        if written and self.prompts and self.whole.startswith(written):
            self._outputs = [self.whole[len(written) :]]
        async for piece in super().complete(prompt, params, grammar):
            yield piece


@pytest.mark.parametrize("cut", [list, lambda text: [text]])
@pytest.mark.parametrize(
    "first",
    [
        BAD,
        GOOD[:-60],
        GOOD.replace("get_weather", "get_whether"),
        GOOD.replace("functions.", ""),
        GOOD.replace('{"location"', "{'location'"),
        GOOD.replace('"shanghai"', '"shanghai", "unit": "k"'),
    ],
)
def test_a_bad_call_is_cut_where_it_goes_wrong_and_gone_on_from_there(first: str, cut: Any) -> None:
    whole = GOOD if '"unit"' not in first else GOOD.replace('"shanghai"', '"shanghai", "unit": "c"')
    message, report = complete(Continuing(first, whole, cut=cut))
    if report.resumes:  # a header without its prefix is read as it is
        assert (report.resumes, report.problems) == (1, ())
    assert section((message.tool_calls[0].id, message.tool_calls[0].function.arguments)) == whole
    assert len(message.tool_calls) == 1


def test_what_was_said_before_a_bad_call_stays_and_is_not_said_twice() -> None:
    message, report = complete(Continuing("Let me see. " + BAD, "Let me see. " + GOOD))
    assert (message.content, len(message.tool_calls), report.resumes) == ("Let me see. ", 1, 1)


def test_a_right_call_comes_through_as_it_is_whatever_its_spelling() -> None:
    arguments = '{ "unit":"c",\n"location" : "Rome" }'
    message, report = complete(ScriptedEngine([section(("functions.get_weather:0", arguments))]))
    assert (message.tool_calls[0].function.arguments, report.resumes) == (arguments, 0)


def test_auto_falls_back_to_what_was_said_where_no_call_had_begun() -> None:
    stray = GOOD.replace("get_weather", "rm_rf")
    message, report = complete(ScriptedEngine(["Let me see. " + stray, ""]))
    assert (message.content, message.tool_calls, message.finish_reason) == ("Let me see. ", (), "stop")
    assert report.violations["undeclared"] == 1 and report.problems
    with pytest.raises(OutputError, match="tried to call a tool, and no valid call came of it"):
        complete(ScriptedEngine([stray, ""]))


def test_a_call_that_has_begun_is_finished_in_auto_too() -> None:
    message, report = complete(ScriptedEngine(["Let me see. " + BAD, ""]))
    assert (message.content, message.finish_reason) == ("Let me see. ", "tool_calls")
    assert [call.function.arguments for call in message.tool_calls] == ['{"location": ""}']
    assert report.guarantee == "enforced"


@pytest.mark.parametrize("output", [BAD, "I'd rather talk.", OTHER, "", "<|im_end|>", "\n" * 50])
def test_a_tool_that_must_be_called_is(output: str) -> None:
    message, report = complete(ScriptedEngine([output, ""]), tool_choice="get_weather")
    assert [call.function.name for call in message.tool_calls] == ["get_weather"]
    assert (message.content, message.finish_reason) == (None, "tool_calls")
    assert report.resumes <= 4


def test_a_limit_counts_over_all_parts() -> None:
    engine = ScriptedEngine([BAD, ' "x' * 100], cut=list)
    complete(engine, params=SamplingParams(max_tokens=500), tool_choice="required")
    # A marker is one token, and of all else a token has about four characters.
    text = "functions.get_weather:0" + '{"location": 1'
    assert engine.params[1].max_tokens == 500 - 3 - -(-len(text) // 4)
    engine = ScriptedEngine(["no", "x" * 9], finish_reason="length")
    assert complete(engine, tool_choice="required")[0].finish_reason == "length"


def test_one_call_means_one() -> None:
    two = section(("functions.ping:0", "{}"), ("functions.ping:1", "{}"))
    engine = ScriptedEngine([two + "x" * 100], cut=list)
    message, _ = complete(engine, parallel_tool_calls=False)
    assert len(message.tool_calls) == engine.closed == 1


def test_a_marker_cut_by_the_token_limit_is_no_content() -> None:
    for length in (2, 3, 20):
        message, _ = complete(ScriptedEngine([GOOD[:length]], finish_reason="length"))
        assert (message.content, message.finish_reason) == (None, "length")


def test_a_call_cut_by_the_token_limit_is_no_call_and_no_error() -> None:
    message, _ = complete(ScriptedEngine([GOOD[:-60]], finish_reason="length"), tool_choice="required")
    assert (message.tool_calls, message.finish_reason) == ((), "length")


def test_none_shows_the_model_no_tool_and_takes_no_call() -> None:
    engine = ScriptedEngine([GOOD, "It is sunny."])
    message, _ = complete(engine, tool_choice="none")
    assert "get_weather" not in str(engine.prompts[0])
    assert (message.content, message.tool_calls) == ("It is sunny.", ())


def test_raw_and_pythonic_hand_on_the_checked_text() -> None:
    message, _ = complete(Continuing(BAD, GOOD), output="raw")
    assert (message.content, message.tool_calls, message.finish_reason) == (GOOD, (), "stop")
    engine = Continuing("[get_weather(1)]", PYTHONIC)
    assert complete(engine, output="pythonic")[0].content == PYTHONIC
    assert "name(key='value', ...)" in str(engine.prompts[0])


def test_one_bad_call_spoils_a_raw_text_and_a_limit_does_not() -> None:
    half = section(("functions.ping:0", "{}"), ("functions.get_weather:1", '{"location": 1}'))
    whole = half.replace("1}", '"x"}')
    message, report = complete(Continuing(half, whole), output="raw")
    assert (message.content, report.resumes) == (whole, 1)
    message, _ = complete(ScriptedEngine([GOOD[:-60]], finish_reason="length"), output="raw")
    assert message.content and GOOD.startswith(message.content)
    assert message.finish_reason == "length"


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"tool_choice": "unknown"}, "tool_choice"),
        ({"tool_choice": "required", "tools": ()}, "tool_choice"),
        ({"tool_choice": "required", "allowed_tools": ()}, "tool_choice"),
        ({"tools": [PING, PING]}, "tools[1].function.name"),
        ({"messages": ()}, "messages"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_before_the_engine_is_asked(
    options: dict[str, Any], param: str
) -> None:
    engine = ScriptedEngine([GOOD])
    with pytest.raises(RequestError) as caught:
        complete(engine, **options)
    assert caught.value.param == param
    assert not engine.prompts


def test_content_streams_and_leaving_early_stops_the_engine() -> None:
    engine = ScriptedEngine(["abcdef"], cut=list)

    async def first_two() -> list[Event | Report]:
        async with contextlib.aclosing(chat.stream(engine, ChatRequest(ASK, [PING]))) as items:
            return [await anext(items), await anext(items)]

    assert asyncio.run(first_two()) == [ContentDelta("a"), ContentDelta("b")]
    assert engine.closed == 1


def test_streamed_equals_not_streamed_however_the_engine_cuts_its_output() -> None:
    text = "Well.\n" + GOOD + " "
    whole = complete(ScriptedEngine([text]))[0]
    assert complete(ScriptedEngine([text], cut=list))[0] == whole


def test_a_random_engine_never_gets_an_invalid_call_through() -> None:
    pieces = [
        *MARKERS,
        "functions.get_weather:0",
        "functions.ping:1",
        '{"location": "x"}',
        '{"location": 1}',
        "{}",
        '"',
    ]
    schemas = Schemas([WEATHER, PING])
    calls = 0
    for seed in range(300):
        rng = random.Random(seed)
        outputs = ["".join(rng.choices(pieces, k=rng.randrange(40))) for _ in range(4)]
        try:
            choice = rng.choice(["auto", "required", "get_weather"])
            message, _ = complete(ScriptedEngine(outputs), tool_choice=choice, parallel_tool_calls=seed % 2 == 0)
        except OutputError:
            assert choice == "auto"
            continue
        assert choice == "auto" or message.tool_calls
        calls += len(message.tool_calls)
        assert seed % 2 == 0 or len(message.tool_calls) < 2
        for call in message.tool_calls:
            assert choice != "get_weather" or call.function.name == choice
            assert schemas.fault(call.function.name, call.function.arguments) is None
            json.loads(call.function.arguments)
    assert calls


def test_a_schema_beyond_any_grammar_is_still_kept() -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}, "required": ["a"]}
    outputs = [section(("functions.f:0", arguments)) for arguments in ('{"a": [1, 1]}', '{"a": [1, 2]}')]
    message, report = complete(ScriptedEngine(outputs), tools=[Tool("f", None, parameters)])
    assert message.tool_calls[0].function.arguments == '{"a": [1, 2]}'
    assert (report.resumes, report.resampled, report.violations) == (1, 0, {"schema": 1})


def test_a_stop_sequence_that_never_came_excuses_nothing() -> None:
    params = SamplingParams(stop=("zzz",))
    with pytest.raises(OutputError):
        complete(ScriptedEngine(["[rm_rf(path='/')]", "", ""] * 4), output="pythonic", params=params)
    message, _ = complete(Continuing(GOOD[:-80], GOOD), tool_choice="required", params=params)
    assert len(message.tool_calls) == 1


@pytest.mark.parametrize("stop", ["shang", "weather", "functions", ": ", "}", CALL_END])
@pytest.mark.parametrize("first", [GOOD, BAD])
def test_a_stop_sequence_is_for_text_and_ends_no_call(stop: str, first: str) -> None:
    engine = Continuing(first, GOOD)
    message, report = complete(engine, params=SamplingParams(stop=(stop,)))
    assert [call.function.arguments for call in message.tool_calls] == ['{"location": "shanghai"}']
    assert (message.finish_reason, report.problems) == ("tool_calls", ())
    assert first is BAD or not report.violations
    assert engine.params[0].stop == (stop,) and (stop == "}" or not any(one.stop for one in engine.params[1:]))
    message, report = complete(ScriptedEngine(["Let me see. " + GOOD]), params=SamplingParams(stop=("see",)))
    assert (message.content, message.tool_calls, message.finish_reason) == ("Let me ", (), "stop")


def test_what_follows_a_call_that_was_finished_without_its_engine_is_not_lost() -> None:
    two = section(("functions.get_weather:0", '{"location": 1}'), ("functions.ping:1", "{}"))
    finished = section(("functions.get_weather:0", '{"location": ""}'))
    engine = ScriptedEngine([two, *"\1\1\1", two[two.index("<|tool_call_begin|>functions.ping") :]])
    message, report = complete(engine)
    assert str(engine.prompts[-1]).endswith(finished.removesuffix(SECTION_END)) and report.resumes == 4
    assert [call.function.name for call in message.tool_calls] == ["get_weather", "ping"]


def test_an_engine_that_fails_in_its_own_way_is_an_engine_that_failed() -> None:
    class Failing(ScriptedEngine):
        async def complete(self, *_: Any) -> AsyncGenerator[Piece, None]:
            yield Piece("Hi")
            raise ValueError("no model")

    for tools in ((), [PING]):
        with pytest.raises(EngineError, match="the engine failed: ValueError: no model"):
            complete(Failing([""]), tools=tools)


def test_none_asks_for_no_format_of_calls() -> None:
    engine = ScriptedEngine(["It rains."])
    assert complete(engine, tool_choice="none", output="pythonic")[0].content == "It rains."
    assert "format" not in str(engine.prompts[0])


def test_what_is_no_text_becomes_the_replacement_character() -> None:
    assert complete(ScriptedEngine(["hi \ud800"]))[0].content == "hi \ufffd"


def test_a_mended_call_goes_out_and_is_told_of() -> None:
    message, report = complete(ScriptedEngine([section(("call_7", '{"location": "Rome"}'))]))
    assert [call.id for call in message.tool_calls] == ["functions.get_weather:0"]
    assert [(problem.kind, problem.action) for problem in report.problems] == [("header", "mended")]
    whole = section(("functions.get_weather:0", '{"location": "Rome"}'))
    assert complete(ScriptedEngine([section(("call_7", '{"location": "Rome"}'))]), output="raw")[0].content == whole


def test_without_tools_only_the_reasoning_comes_apart() -> None:
    engine = ScriptedEngine([f"Hm.</think>Yes. {GOOD}"], variant=K2_5)
    message, _ = complete(engine, tools=())
    assert (message.reasoning_content, message.content, message.tool_calls) == ("Hm.", f"Yes. {GOOD}", ())
    message, _ = complete(ScriptedEngine(["Yes."], variant=K2_5), thinking=False)
    assert (message.reasoning_content, message.content) == (None, "Yes.")
    assert str(engine.prompts[0]).endswith("<think>")


class Random(ScriptedEngine):
    """Obeys nothing: writes characters or markers at random, one thing for ever, or nothing."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__([""], cut=list if rng.random() < 0.5 else lambda text: [text])
        self.rng = rng
        alphabets = [[chr(code) for code in range(300)], list("中🙂é"), [*MARKERS, *' {}[]:,01"'], ["a"], [""]]
        self.alphabet = rng.choice(alphabets)

    async def complete(self, *arguments: Any) -> AsyncGenerator[Piece, None]:
        self._outputs = ["".join(self.rng.choices(self.alphabet, k=self.rng.randrange(200)))]
        async for piece in super().complete(*arguments):
            yield piece


def test_a_random_engine_calls_real_tools_as_they_are_to_be_called(shared: Path) -> None:
    with lzma.open(shared / "schemas" / "mcp_tools.jsonl.xz", "rt") as lines:
        tools = [json.loads(line)["tool"]["function"] for line in lines]
    rng = random.Random(0)
    for tool in rng.sample(tools, 100):
        declared = [Tool(tool["name"].replace(" ", "_"), None, tool.get("parameters"))]
        engine = Random(rng)
        message, _ = complete(engine, tools=declared, tool_choice="required", parallel_tool_calls=rng.random() < 0.5)
        assert message.tool_calls and len(engine.prompts) <= 10
        for call in message.tool_calls:
            assert Schemas(declared).fault(call.function.name, call.function.arguments) is None


class ById(Continuing):
    """Gives token ids, and beside them a text that isn't theirs."""

    def __init__(self, first: str, whole: str, tokenizer: Tokenizer) -> None:
        super().__init__(first, whole)
        self.tokenizer = tokenizer
        self.capabilities = replace(self.capabilities, tokenizer=tokenizer)

    async def complete(self, prompt: Prompt, params: SamplingParams, grammar: Any) -> AsyncGenerator[Piece, None]:
        async for piece in super().complete(prompt, params, grammar):
            if piece.finish_reason:
                yield piece
                return
            parts = tuple(part for part in going_on(piece.text, K2) if part)
            for id in self.tokenizer.encode_prompt(replace(prompt, parts=parts)):
                yield Piece("nonsense", ids=(id,))


def test_token_ids_count_whatever_the_text_beside_them_says(shared: Path) -> None:
    tokenizer = Tokenizer.from_folder(shared / "k2")
    for choice in ("auto", "required", "get_weather"):
        message, report = complete(ById(GOOD, GOOD, tokenizer), tool_choice=choice)
        assert section((message.tool_calls[0].id, message.tool_calls[0].function.arguments)) == GOOD
        assert not report.resumes


def test_a_prefix_that_ends_inside_a_token_is_healed(shared: Path) -> None:
    engine = ById(GOOD.replace('"location"', '"loc\x00"'), GOOD, Tokenizer.from_folder(shared / "k2"))
    message, report = complete(engine)
    assert (message.tool_calls[0].function.arguments, report.resumes) == ('{"location": "shanghai"}', 1)
    # The model writes `location`, its own token, where `loc` could stand.
    assert str(engine.prompts[1]).endswith('<|tool_call_argument_begin|>{"')


def test_in_auto_another_tool_than_the_one_that_was_meant_is_not_called() -> None:
    delete = Tool("delete_files", None, {"type": "object", "properties": {"path": {"type": "string"}}})
    other = section(("functions.list_files:0", '{"path": "x"}'))
    message, _ = complete(ScriptedEngine(["Hi. " + other, other]), tools=[delete])
    assert (message.content, message.tool_calls) == ("Hi. ", ())


def test_alternatives_that_an_engine_offers_are_taken_before_it_is_asked_again() -> None:
    class Offering(Continuing):
        async def complete(self, *arguments: Any) -> AsyncGenerator[Piece, None]:
            async for piece in super().complete(*arguments):
                yield (
                    msgspec.structs.replace(piece, alternatives=(('"k"', -0.1), ('"f"', -0.5)))
                    if piece.text == '"k"'
                    else piece
                )

    head, tail = GOOD.removesuffix("}" + GOOD.rpartition("}")[2]) + ', "unit": ', "}" + GOOD.rpartition("}")[2]
    engine = Offering(head + '"k"' + tail, head + '"f"' + tail, cut=lambda text: text.partition('"k"'))
    message, report = complete(engine, tool_choice="auto")
    assert message.tool_calls[0].function.arguments == '{"location": "shanghai", "unit": "f"}'
    assert (report.resumes, report.resampled) == (1, 0)


@pytest.mark.parametrize("filling", ["0", "- ", "é"])
def test_what_a_valid_call_repeats_stays_however_it_is_cut(filling: str) -> None:
    arguments = json.dumps({"location": filling * 12_000}, ensure_ascii=False)
    whole = section(("functions.get_weather:0", arguments))
    for cut in (4, 10_000):
        engine = ScriptedEngine(
            [whole], cut=lambda text, cut=cut: [text[i : i + cut] for i in range(0, len(text), cut)]
        )
        message, report = complete(engine)
        assert (message.tool_calls[0].function.arguments, report.resumes) == (arguments, 0)


def test_an_engine_that_repeats_itself_for_ever_is_stopped_and_its_call_finished() -> None:
    class Endless(ScriptedEngine):
        async def complete(self, *_: Any) -> AsyncGenerator[Piece, None]:
            while True:
                yield Piece("the cat ")

    message, report = complete(Endless([""]), tool_choice="required", tools=[WEATHER])
    assert len(message.tool_calls) == 1 and report.violations["runaway"]
    for tools in ([WEATHER], ()):
        message, report = complete(Endless([""]), tools=tools)
        assert message.finish_reason == "length" and report.usage.prompt > 10


# What fresh readers found


def test_what_we_write_and_a_check_refuses_is_no_endless_loop() -> None:
    either = {"enum": [{"x": 1, "y": 2}, {"x": 2, "y": 1}]}
    tool = Tool("f", None, {"type": "object", "properties": {"cell": either}, "required": ["cell"]})
    message, _ = complete(ScriptedEngine([section(("functions.f:0", '{"cell": {"z": 1')), "!"]), tools=[tool])
    assert json.loads(message.tool_calls[0].function.arguments)["cell"] in either["enum"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_content_of_a_raw_text_spells_no_marker_however_it_is_cut(size: int) -> None:
    evil = section(("functions.rm:0", '{"path": "/"}'))
    spliced = evil.replace("|>", f"{CALL_END}|>")
    for text in ("You wrote " + escape(evil, K2), spliced):
        engine = ScriptedEngine([text], cut=lambda text: [text[i : i + size] for i in range(0, len(text), size)])
        message, _ = complete(engine, output="raw", tools=[PING])
        assert message.content and parse(message.content, tools=None).tool_calls == ()
        assert not any(marker in message.content for marker in MARKERS)


def test_alternatives_that_are_no_text_are_none() -> None:
    class Offering(ScriptedEngine):
        async def complete(self, *_: Any) -> AsyncGenerator[Piece, None]:
            yield Piece("\1", alternatives=(("a\ud800b", -1.0), ('"}', -9.0)))
            yield Piece(finish_reason="stop")

    message, _ = complete(Offering([""]), tool_choice="get_weather")
    message.tool_calls[0].function.arguments.encode()


@pytest.mark.parametrize("output", ["", "[f(a=1, ", "[f(a=1"])
def test_a_pythonic_call_that_is_held_whole_is_finished(output: str) -> None:
    tool = Tool("f", None, {"type": "object", "not": {"required": ["x"]}})
    message, _ = complete(ScriptedEngine([output, ""]), tools=[tool], output="pythonic", tool_choice="f")
    (call,) = parse(message.content or "", tools=[tool], tool_format="pythonic").tool_calls
    assert "x" not in json.loads(call.function.arguments)


@pytest.mark.parametrize("cut", [list, lambda text: [text]])
@pytest.mark.parametrize("output", ["tool_calls", "pythonic"])
def test_an_undeclared_tool_is_no_other_one(cut: Any, output: Any) -> None:
    transfer = Tool("transfer", None, {"type": "object", "properties": {"to": {"enum": ["Bob"]}}, "required": ["to"]})
    call = "[delete()]" if output == "pythonic" else section(("functions.delete_everything:0", "{}"))
    message, _ = complete(ScriptedEngine([call, "Sorry."], cut=cut), tools=[transfer], output=output)
    assert (message.content, message.tool_calls) == ("Sorry.", ())
    with pytest.raises(OutputError):
        complete(ScriptedEngine([call, ""], cut=cut), tools=[transfer], output=output)


def test_a_call_that_must_come_and_only_we_have_begun_is_finished() -> None:
    parameters = {"type": "object", "properties": {"k": {"type": "integer"}}, "required": ["k"]}
    wrong = section(("functions.a:0", "{}"))
    message, _ = complete(
        ScriptedEngine([wrong, wrong, "]"]), tools=[Tool("a"), Tool("w", None, parameters)], tool_choice="w"
    )
    assert [call.function.name for call in message.tool_calls] == ["w"]


@pytest.mark.parametrize("cut", [list, lambda text: [text]])
@pytest.mark.parametrize(
    "arguments", ['{"location": "Paris"}', '\n{ "location":"Paris" }', '{"unit": "c", "location": "Paris"}']
)
def test_arguments_that_are_begun_anew_behind_what_we_wrote_are_taken(cut: Any, arguments: str) -> None:
    message, _ = complete(ScriptedEngine([arguments + CALL_END], cut=cut), tool_choice="get_weather")
    assert json.loads(message.tool_calls[0].function.arguments) == json.loads(arguments)
    form = WEATHER.parameters
    message, _ = complete(ScriptedEngine([arguments], cut=cut), tools=(), answer=form)
    assert json.loads(message.content or "") == json.loads(arguments)


def test_no_stop_sequence_excuses_a_call_that_must_come() -> None:
    thought = "<think>one\ntwo</think>" + OTHER
    engine = ScriptedEngine([thought], variant=K2_THINKING)
    message, _ = complete(engine, tool_choice="ping", params=SamplingParams(stop=("\n",)))
    assert [call.function.name for call in message.tool_calls] == ["ping"]


@pytest.mark.parametrize("cut", [list, lambda text: [text]])
def test_a_limit_behind_a_whole_turn_cuts_nothing(cut: Any) -> None:
    engine = ScriptedEngine([OTHER + "<|im_end|>" + "x" * 80], cut=cut, finish_reason="length")
    assert complete(engine)[0].finish_reason == "tool_calls"


@pytest.mark.parametrize(("value", "stop"), [("[num(n=10)]", "0"), ("[num(n=5)]", "5"), ("[num(n=5)]", "(")])
def test_a_stop_sequence_spoils_no_pythonic_call(value: str, stop: str) -> None:
    tool = Tool(
        "num", None, {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9}}, "required": ["n"]}
    )
    message, _ = complete(
        ScriptedEngine([value, "5)]"]), tools=[tool], output="pythonic", params=SamplingParams(stop=(stop,))
    )
    for call in parse(message.content or "", tools=[tool], tool_format="pythonic").tool_calls:
        assert json.loads(call.function.arguments)["n"] <= 9


@pytest.mark.parametrize("cut", [list, lambda text: [text]])
@pytest.mark.parametrize(
    "wrong",
    [
        section(("functions.delete_draft:0", '{"id": "7"}')),
        section(("functions.bulk_delete_account:0", '{"id": "7"}')),
        SECTION_BEGIN + '{"name": "delete_file", "arguments": {"id": "7"}}' + SECTION_END,
    ],
)
def test_in_auto_a_tool_is_called_only_if_it_was_named(cut: Any, wrong: str) -> None:
    tool = Tool(
        "delete_account", None, {"type": "object", "properties": {"id": {"type": "string"}}, "required": ["id"]}
    )
    message, _ = complete(ScriptedEngine([wrong, "Sorry."], cut=cut), tools=[tool])
    assert (message.content, message.tool_calls) == ("Sorry.", ())


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_what_an_answer_with_tools_becomes_does_not_depend_on_its_cut(size: int) -> None:
    def engine(*outputs: str) -> ScriptedEngine:
        return ScriptedEngine(outputs, cut=lambda text: [text[i : i + size] for i in range(0, len(text), size)])

    form = {"type": "object", "properties": {"k": {"enum": ["p", "q"]}}, "required": ["k"]}
    message, _ = complete(engine("I use {x}. " + OTHER), answer=form)
    assert [call.function.name for call in message.tool_calls] == ["ping"] and message.content is None
    message, _ = complete(engine('Sure: {"k": "q"}', '{"k": "q"}\n'), answer=form)
    assert json.loads(message.content or "") == {"k": "q"}
    two = section(("functions.ping:0", "{}"), ("functions.ping:1", "{}"))
    message, _ = complete(
        engine(two.replace("<|tool_call_end|><|tool_call_begin|>", "<|tool_call_end|>|<|tool_call_begin|>"))
    )
    assert (len(message.tool_calls), message.finish_reason) == (1, "tool_calls")


def test_an_engine_that_fails_behind_a_whole_turn_spoils_nothing() -> None:
    class Late(ScriptedEngine):
        async def complete(self, *_: Any) -> AsyncGenerator[Piece, None]:
            yield Piece(OTHER)
            raise ValueError("late")

    message, _ = complete(Late([""]), parallel_tool_calls=False)
    assert len(message.tool_calls) == 1


@pytest.mark.parametrize("shows_controls", [True, False])
def test_without_tools_what_comes_behind_the_end_spoils_nothing(shows_controls: bool) -> None:
    class Late(ScriptedEngine):
        async def complete(self, *_: Any) -> AsyncGenerator[Piece, None]:
            yield Piece("In ChatML a turn ends with <|im_end|>.")
            if shows_controls:
                raise ValueError("late")
            yield Piece(finish_reason="stop")

    engine = Late([""])
    engine.capabilities = replace(engine.capabilities, shows_controls=shows_controls)
    message, _ = complete(engine, tools=[])
    assert message.content == "In ChatML a turn ends with " + "<|im_end|>." * (not shows_controls)
    assert message.finish_reason == "stop"


@pytest.mark.parametrize("again", ['{"loc":"Paris","n":3}', '{ "loc": "Paris", "n": 3 }'])
@pytest.mark.parametrize("head", ["", f"{SECTION_BEGIN}<|tool_call_begin|>functions.w:0<|tool_call_argument_begin|>"])
def test_an_open_call_that_is_told_again_in_another_spacing_is_one_call(again: str, head: str) -> None:
    parameters = {
        "type": "object",
        "properties": {"loc": {"type": "string"}, "n": {"type": "integer"}},
        "required": ["loc", "n"],
        "additionalProperties": False,
    }
    first = f"{SECTION_BEGIN}<|tool_call_begin|>functions.w:0<|tool_call_argument_begin|>" + '{"loc": "Paris", x'
    message, _ = complete(ScriptedEngine([first, head + again + CALL_END]), tools=[Tool("w", None, parameters)])
    assert [json.loads(call.function.arguments) for call in message.tool_calls] == [{"loc": "Paris", "n": 3}]
