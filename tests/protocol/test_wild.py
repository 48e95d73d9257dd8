"""What Kimi K2 and its engines really write: each damage read right, in every way of cutting the text up."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from abruzzi import Message, StreamParser, Tool
from abruzzi.protocol.events import Event
from abruzzi.protocol.markers import ARGUMENT_BEGIN as A
from abruzzi.protocol.markers import CALL_BEGIN as B
from abruzzi.protocol.markers import CALL_END as E
from abruzzi.protocol.markers import SECTION_BEGIN as S
from abruzzi.protocol.markers import SECTION_END as Z
from abruzzi.protocol.prompt import Control
from abruzzi.protocol.pythonic import PythonicParser

END = "<|im_end|>"


def tool(name: str, *required: str, **optional: str) -> Tool:
    types = {name: {"type": "string"} for name in required} | {name: {"type": kind} for name, kind in optional.items()}
    return Tool(name, None, {"type": "object", "properties": types, "required": list(required)})


TOOLS = [
    tool("get_weather", "city", unit="string"),
    tool("search", "query"),
    tool("search_files", "query", "folder"),
    tool("read-file", "path"),
    tool("my.ns.do", x="integer"),
    tool("mcp__git/issues", "repo"),
    tool("ping"),
    tool("查询", "城市"),
]
ROME = '{"city": "Rome"}'


def cuts(text: str) -> Iterator[list[str]]:
    for size in (len(text) or 1, 1, 2, 3, 5, 7, 11, 17):
        yield [text[i : i + size] for i in range(0, len(text), size)]


def read(pieces: Sequence[str], tools: Any = TOOLS, **options: Any) -> Message:
    parser = StreamParser(tools=tools, **options)
    events: list[Event] = [event for piece in pieces for event in parser.feed(piece)]
    return Message.from_events([*events, *parser.close()])


def read_in_all_cuts(text: str, tools: Any = TOOLS, **options: Any) -> Message:
    first, *others = [read(pieces, tools, **options) for pieces in cuts(text)]
    assert all(other == first and other.problems == first.problems for other in others)
    return first


def calls_of(message: Message) -> list[tuple[str, Any]]:
    return [(call.id.removeprefix("functions."), json.loads(call.function.arguments)) for call in message.tool_calls]


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        # headers
        (f"{B}functions.get_weather:0{A}{ROME}{E}", ["get_weather:0"]),
        (f"{B}\n functions.get_weather:3 \n{A}\n{ROME}\n{E}", ["get_weather:3"]),
        (f"{B}get_weather:2{A}{ROME}{E}", ["get_weather:2"]),
        (f"{B}functions.read-file:0{A}{{\"path\": \"x\"}}{E}", ["read-file:0"]),
        (f"{B}functions.my.ns.do:4{A}{{\"x\": 1}}{E}", ["my.ns.do:4"]),
        (f"{B}functions.mcp__git/issues:0{A}{{\"repo\": \"x\"}}{E}", ["mcp__git/issues:0"]),
        (f"{B}functions.查询:0{A}{{\"城市\": \"上海\"}}{E}", ["查询:0"]),
        (f"{B}functionssearch5{A}{{\"query\": \"x\"}}{E}", ["search:5"]),
        (f"{B}functions.functions.search:5{A}{{\"query\": \"x\"}}{E}", ["search:5"]),
        (f"{B}functions_my_ns_do_1{A}{{\"x\": 1}}{E}", ["my.ns.do:1"]),
        (f"{B}functions_search_files_2{A}{{\"query\": \"x\", \"folder\": \"y\"}}{E}", ["search_files:2"]),
        (f"{B}functions.search{A}{{\"query\": \"x\"}}{E}", ["search:0"]),
        (f"{B}call_00003{A}{ROME}{E}", ["get_weather:3"]),
        (f"{B}tool_call_1{A}{{\"path\": \"x\"}}{E}", ["read-file:1"]),
        (f"{B}7{A}{ROME}{E}", ["get_weather:7"]),
        (f"{B}call_6b0e7c24f0c44f0d996b59e5{A}{ROME}{E}", ["get_weather:0"]),
        (f"{B}123e4567-e89b-12d3-a456-426614174000{A}{ROME}{E}", ["get_weather:0"]),
        (f"{B}call_abc{A}{ROME}{E}", ["get_weather:0"]),
        (f"{B}functions.call_abc:2{A}{ROME}{E}", ["get_weather:2"]),
        (f"{B}toolu_01A09q90qw90{A}{ROME}{E}", ["get_weather:0"]),
        (f"{B}fc_68a1b2{A}{ROME}{E}", ["get_weather:0"]),
        (f"{B}#3{A}{ROME}{E}", ["get_weather:3"]),
        (f"{B}functions.\nget_weather:3{A}{ROME}{E}", ["get_weather:3"]),
        (f"{B}functions..get_weather:3{A}{ROME}{E}", ["get_weather:3"]),
        (f"{B}`functions.get_weather:3`{A}{ROME}{E}", ["get_weather:3"]),
        (f"{B}tools.get_weather:3{A}{ROME}{E}", ["get_weather:3"]),
        (f"{B}tool_call_get_weather_3{A}{ROME}{E}", ["get_weather:3"]),
        (f"{B}functions.get_weather:call_3{A}{ROME}{E}", ["get_weather:3"]),
        # markers
        (f"{B}functions.ping:0{B}functions.ping:1{E}", ["ping:0", "ping:1"]),
        (f"{B}{B}functions.ping:0{A}{A}{{}}{E}", ["ping:0"]),
        (f"{B}functions.ping:0{A}null{END}", ["ping:0"]),
        (f"{S}{B}functions.ping:0{A}{{}}functions.get_weather:1{ROME}{E}{Z}", ["ping:0", "get_weather:1"]),
        (f"{S}{B}functions.ping:0{A}{{}}", ["ping:0"]),
        (f"{S}{B}functions.ping:0{A}{{}}{Z}", ["ping:0"]),
        (f"{S}{B}functions.ping:0{A}{{}}{B}functions.ping:1{A}{{}}{E}{Z}", ["ping:0", "ping:1"]),
        (f"{S}{B}functions.ping:0{A}{{}}functions.ping:1{A}{{}}{E}{Z}", ["ping:0", "ping:1"]),
        (f"{S}functions.ping:0{A}{{}}{E}{Z}", ["ping:0"]),
        (f"{S}{S}{B}functions.ping:0{A}{{}}{E}{E}{Z}{Z}", ["ping:0"]),
        (f"<|tool_call_section_begin|>{B}functions.ping:0{A}{{}}{E}<|tool_call_section_end|>", ["ping:0"]),
        (f"{S}{B}functions.ping:0{A}{{}}{E}{Z}\n{S}{B}functions.ping:1{A}{{}}{E}{Z}", ["ping:0", "ping:1"]),
        (f"{S}{B}functions.ping:0{A}{{}}{E}{Z}{END}", ["ping:0"]),
        (f"{B}functions.ping:0{A}{{}}{E}{B}functions.ping:0{A}{{}}{E}", ["ping:0", "ping:1"]),
        # arguments
        (f"{B}functions.ping:0{A}{E}", ["ping:0"]),
        (f"{B}functions.ping:0{A}null{E}", ["ping:0"]),
        (f'{B}functions.ping:0{A}"null"{E}', ["ping:0"]),
        (f'{B}functions.ping:0{A}""{E}', ["ping:0"]),
        (f"{B}functions.get_weather:0{A}{json.dumps(ROME)}{E}", ["get_weather:0"]),
        (f"{B}functions.get_weather:0{ROME}{E}", ["get_weather:0"]),
        (f"{B}functions.get_weather:0 {ROME} {B}functions.ping:1{A}{{}}{E}", ["get_weather:0", "ping:1"]),
        (f"{B}functions.get_weather:0{A}{{\n \"city\":\n\"Rome\"\n}}{E}", ["get_weather:0"]),
        (f'{B}functions.search:0{A}{{"query": "a {E}{Z} \\" {A} b"}}{E}', ["search:0"]),
    ],
)  # fmt: skip
def test_a_call_is_found(text: str, calls: list[str]) -> None:
    message = read_in_all_cuts(text)
    assert [id for id, _ in calls_of(message)] == calls
    assert message.finish_reason == "tool_calls"
    assert message.content is None
    assert all(problem.action != "rejected" for problem in message.problems)
    for problem in message.problems:
        assert problem.text in text or problem.text.removeprefix(B) in text


@pytest.mark.parametrize(
    ("text", "kind", "name"),
    [
        (f"{B}functions.img_gen:0{A}{{}}{E}", "undeclared", "img_gen"),
        (f"{B}functionsimg_gen0{A}{{\"query\": \"x\"}}{E}", "header", None),
        (f"{B}call_1{A}{{}}{E}", "header", None),  # ping and my.ns.do take no arguments
        (f"{B}call_1{A}{{\"place\": \"x\"}}{E}", "header", None),
        (f"{B}{E}", "header", None),
        (f"{B}functions.get_weather:0{A}{{\"city\": 1}}{E}", "schema", "get_weather"),
        (f"{B}functions.get_weather:0{A}[]{E}", "schema", "get_weather"),
        (f"{B}functions.get_weather:0{A}{{\"city\": \"x\",}}{E}", "not_json", "get_weather"),
        (f"{B}functions.get_weather:0{A}{ROME}}}{E}", "not_json", "get_weather"),
        (f"{B}functions.get_weather:0{A}{{\"city\": NaN}}{E}", "not_json", "get_weather"),
        (f"{B}functions.get_weather:0{A}{json.dumps(json.dumps(ROME))}{E}", "schema", "get_weather"),
        (f"{B}functions.get_weather:0{A}{{{A}}}{E}", "not_json", "get_weather"),
        (f"{B}functions.get_weather:0{A}{ROME[:9]}", "truncated", "get_weather"),
        (f"{B}functions.get_weather:0{A}{ROME[:9]}{END}", "truncated", "get_weather"),
        (f"{B}functions.get_we", "truncated", None),
        (f"{B}functions.get_weather:0{ROME}", "truncated", None),
        (f"{B}functions.img_gen:0{ROME}{E}", "undeclared", "img_gen"),
        (f"{B}Let me call ping :0{A}{{}}{E}", "header", None),
        (f"{B}functions.callback:0{A}{{\"path\": \"x\"}}{E}", "undeclared", "callback"),
        (f"{B}functions.convert2d:0{A}{{\"path\": \"x\"}}{E}", "undeclared", "convert2d"),
        (f"{B}toolbox{A}{{\"path\": \"x\"}}{E}", "header", None),
        (f"{S}{B}{A}{E}{Z}", "header", None),
        (f'{B}functions.search:0{A}"{{\\"query\\": \\"\\ud83d\\"}}"{E}', "not_json", "search"),
        (f"{B}call_delete_file{A}{{\"path\": \"x\"}}{E}", "header", None),
        (f"{B}functions.get_weather:0{A}{{\"city\": \"x{END}", "truncated", "get_weather"),
        (f"{B}functions.get_weather:0{ROME}<{E}", "not_json", "get_weather"),
        (f"{S}", "truncated", None),
        (f"{S} let me see {Z}", "header", None),
    ],
)  # fmt: skip
def test_what_is_no_valid_call_is_told_and_not_handed_out(text: str, kind: str, name: str | None) -> None:
    message = read_in_all_cuts(text)
    assert not message.tool_calls
    problem = next(problem for problem in message.problems if problem.action == "rejected")
    assert (problem.kind, problem.name) == (kind, name)
    assert message.finish_reason == ("length" if kind == "truncated" else "stop")


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (f"Let me see.\n{S}{B}functions.ping:0{A}{{}}{E}{Z}", "Let me see.\n"),
        (f"\n\n{S}{B}functions.ping:0{A}{{}}{E}{Z}\n\n", None),
        (f"{S}{B}functions.ping:0{A}{{}}{E}{Z} Done.", " Done."),
        (f"{S}{B}functions.ping:0{A}{{}}{E}{Z}user", None),
        (f"{S}{B}functions.ping:0{A}{{}}{E}{Z}\nassistant\n{END}", None),
        (f"{S}{B}functions.ping:0{A}{{}}{E}{Z}users are many", "users are many"),
        (f"{S}{B}functions.ping:0{A}{{}}{E}{Z}us", "us"),
        (f"{B}functions.ping:0{A}{{}}{E} Done.", " Done."),
        (f"{S} spurious {B}functions.ping:0{A}{{}}{E} between {Z}", None),
        (f"{S}{B}functions.ping:0{A}{{}}{E}{Z}<|im_user|>user<|im_middle|>More", None),
        (f"{S}{B}functions.ping:0{A}{{}}{E}{Z} Done.{E} x", " Done. x"),
        (f"Hello.{END}<|im_user|>user<|im_middle|>More", "Hello."),
        ("if a < b and c <", "if a < b and c <"),
        (f"stray {E} markers {Z} go", "stray  markers  go"),
        ("  ", "  "),
        ("user", "user"),
        ("<think>not for K2-Instruct</think>", "<think>not for K2-Instruct</think>"),
    ],
)
def test_content_is_what_is_meant_for_the_user(text: str, content: str | None) -> None:
    assert read_in_all_cuts(text).content == content


@pytest.mark.parametrize(
    ("variant", "text", "reasoning", "content", "calls"),
    [
        ("k2-thinking", "<think>Hm.</think>Yes.", "Hm.", "Yes.", 0),
        ("k2-thinking", "Yes.", None, "Yes.", 0),
        ("k2-thinking", "\n<think>\nHm.\n</think>\n\nYes.", "\nHm.\n", "\n\nYes.", 0),
        ("k2-thinking", f"<think>I call {S}{B}functions.ping:0{A}{{}}{E}{Z}", "I call ", None, 1),
        ("k2.5", "Hm.</think>Yes.", "Hm.", "Yes.", 0),
        ("k2.5", "<think>Hm.</think>Yes.", "Hm.", "Yes.", 0),
        ("k2.5", f"Hm. {B}functions.ping:0{A}{{}}{E}</think>Done.", "Hm. ", "Done.", 1),
        ("k2.5", f"Hm.</think>\n{S}{B}functions.ping:0{A}{{}}{E}{Z}", "Hm.", None, 1),
        ("k2.5", f"Hm {S}{B}functions.ping:0{A}{{}}</think>{E}{Z}</think>", "Hm ", "</think>", 1),
        ("k2.5", f"Hm {S}{B}</think>functions.ping:0{A}{{}}{E}{Z}", "Hm ", None, 1),
        ("k2.6", "Hm", "Hm", None, 0),
        ("k2.6", "Hm.</think>Say </think> twice", "Hm.", "Say </think> twice", 0),
    ],
)
def test_reasoning_ends_where_it_ends(
    variant: str, text: str, reasoning: str | None, content: str | None, calls: int
) -> None:
    message = read_in_all_cuts(text, variant=variant)
    assert (message.reasoning_content, message.content, len(message.tool_calls)) == (reasoning, content, calls)


def test_without_thinking_the_output_begins_with_content() -> None:
    assert read_in_all_cuts("Yes.", variant="k2.5", thinking=False).content == "Yes."
    assert read_in_all_cuts("Hm.</think>Yes.", variant="k2-thinking", thinking=True).reasoning_content == "Hm."


def test_the_longest_declared_name_is_meant() -> None:
    tools = [tool("get"), tool("get_1"), tool("get_weather")]
    assert calls_of(read_in_all_cuts(f"{B}functions_get_weather_0{A}{{}}{E}", tools)) == [("get_weather:0", {})]
    assert calls_of(read_in_all_cuts(f"{B}functionsget_12{A}{{}}{E}", tools)) == [("get_1:2", {})]


def test_a_tool_that_takes_anything_leaves_the_others_unsure() -> None:
    text = f'{B}call_1{A}{{"query": "x"}}{E}'
    anything = Tool("run", None, {"type": "object"})
    assert not read_in_all_cuts(text, [anything, tool("search", "query")]).tool_calls
    assert calls_of(read_in_all_cuts(text, [anything])) == [("run:1", {"query": "x"})]


def test_no_call_is_made_of_markers_alone() -> None:
    tools = [tool("ping"), tool("read-file", "path")]
    for text in (f"{S}{A}{Z}", f"{S}{B}{A}{E}{Z}", f"{S}{A}{END}"):
        assert not read_in_all_cuts(text, tools).tool_calls
    whole = f'{B}functions.read-file:0{A}{{"path": "x"}}'
    for text in (f"{S}{whole}{A}{E}{Z}", f"{S}{whole}{E}{A}{Z}"):
        assert [id for id, _ in calls_of(read_in_all_cuts(text, tools))] == ["read-file:0"]


def test_what_stands_behind_packed_calls_is_told() -> None:
    message = read_in_all_cuts(f"{S}{B}functions.ping:0{A}{{}}functions.ping:1{{}} and more{E}{Z}")
    assert [id for id, _ in calls_of(message)] == ["ping:0"]
    assert message.problems[-1].kind == "not_json" and message.problems[-1].text.endswith("{} and more")


def test_calls_packed_without_markers_cost_no_stack() -> None:
    message = read([f"{S}{B}functions.ping:0{A}{{}}" + "functions.ping:1{}" * 5000 + E + Z])
    assert len(message.tool_calls) == 5001
    assert sum(len(problem.text) for problem in message.problems) < 500_000


def test_what_was_held_at_a_limit_is_handed_out() -> None:
    for text, content, problems in (("if a <", "if a <", 0), ("if a <|tool_", "if a ", 1)):
        parser = StreamParser(tools=TOOLS)
        message = Message.from_events([*parser.feed(text), *parser.close(cut=True)])
        assert (message.content, len(message.problems), message.finish_reason) == (content, problems, "length")


PIECES = [
    A,
    f" {A}",
    f"{B}functions.ping:0{A}{{}}{E}",
    B,
    S,
    Z,
    "<",
    "<|",
    "<|tool_calls_section_",
    " ",
    "\n",
    "\u200b",
    "<\u200b",
]
PIECES += ["user", "[", "[f(", "(", "'", "\\", "1", "9,", "x=", '"', "{"]
HEADS = ["", f"{S}{B}functions.ping:0{A}", f"{S}{B}", f"{S}{B}functions.ping:0{A}{{}}{E}{Z}", "[f(a="]


@pytest.mark.parametrize("parser", [StreamParser, PythonicParser])
@pytest.mark.parametrize("head", HEADS)
def test_the_cost_of_a_piece_does_not_grow_with_their_number(parser: Any, head: str) -> None:
    def seconds(piece: str, count: int) -> float:
        start = time.process_time()
        reader = parser(tools=TOOLS)
        reader.feed(head)
        for _ in range(count):
            reader.feed(piece)
        reader.close()
        return time.process_time() - start

    for piece in PIECES:
        for _ in range(3):  # a busy machine may need a second look
            if grew := seconds(piece, 8000) > 40 * seconds(piece, 500) + 0.01:
                continue
            break
        assert not grew, piece


def test_two_names_that_a_header_may_mean_are_told_apart_by_the_arguments_or_not_at_all() -> None:
    header = "functions_a_b_0"
    tools = [tool("a.b", "x"), tool("a_b", "y")]
    assert calls_of(read_in_all_cuts(f'{B}{header}{A}{{"y": "1"}}{E}', tools)) == [("a_b:0", {"y": "1"})]
    tools = [tool("a.b", x="string"), tool("a_b", x="string")]
    message = read_in_all_cuts(f'{B}{header}{A}{{"x": "1"}}{E}', tools)
    assert not message.tool_calls and "a.b, a_b may all take" in message.problems[0].detail


def test_any_name_will_do_where_no_tools_are_given() -> None:
    assert calls_of(read_in_all_cuts(f"{B}functions.img_gen:0{A}{{}}{E}", None)) == [("img_gen:0", {})]


def test_with_token_ids_a_marker_is_one_only_by_its_id() -> None:
    spelled = f"Write {S} to begin."
    pieces = [spelled, Control(S), Control(B), "functions.search:0", Control(A), f'{{"query": "{E}"}}', Control(E)]
    message = read([*pieces, Control(Z), Control("<|im_end|>"), "user"], by_id=True)
    assert message.content == spelled
    assert calls_of(message) == [("search:0", {"query": E})]
    broken = [Control(B), "functions.search:0", Control(A), '{"query": "', Control(E)]
    assert read(broken, by_id=True).problems[0].kind == "not_json"


@pytest.mark.parametrize("end", ["<|im_end|>", "[EOS]", "[EOT]", "<|im_user|>"])
def test_with_token_ids_whatever_ends_or_begins_a_turn_ends_it(end: str) -> None:
    message = read(["Hello.", Control(end), "user"], by_id=True)
    assert (message.content, message.problems[0].text) == ("Hello.", "user")
    assert read([f"Hello {end}"], by_id=True).content == f"Hello {end}"


def test_a_spelling_that_was_broken_for_the_prompt_is_read_as_it_was_meant() -> None:
    message = read_in_all_cuts(f'<\u200b|im_end|> [\u200bx{B}functions.search:0{A}{{"query": "<\u200b|im_end|>"}}{E}')
    assert message.content == "<|im_end|> [\u200bx"
    assert calls_of(message) == [("search:0", {"query": "<|im_end|>"})]


def test_the_failure_corpus(shared: Path) -> None:
    for case in json.loads((shared / "failure_corpus.json").read_text()):
        message = read_in_all_cuts(case["raw"], case["tools"])
        calls = [
            {"name": call.function.name, "arguments": json.loads(call.function.arguments)}
            for call in message.tool_calls
        ]
        assert (case["name"], message.content or "", calls) == (case["name"], case["content"], case["calls"])
        assert (message.finish_reason == "length") == bool(case.get("truncated"))
        rejected = [problem.name for problem in message.problems if problem.kind == "undeclared"]
        assert rejected == case.get("rejected", [])
