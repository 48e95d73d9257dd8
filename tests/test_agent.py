from __future__ import annotations

import asyncio

import pytest

from abruzzi import Agent, RequestError
from abruzzi.engines.scripted import ScriptedEngine
from abruzzi.tools import ToolError
from tests.conftest import WEATHER, section


def get_weather(location: str) -> str:
    """Get the weather of a city."""
    return {"shanghai": "Cloudy"}.get(location, "Rainy")


TWO = section(("functions.get_weather:0", '{"location": "shanghai"}'), ("functions.get_weather:1", '{"location": "x"}'))


def test_calls_are_run_and_their_results_fed_back_until_the_model_answers() -> None:
    engine = ScriptedEngine([TWO, "Cloudy and rainy."])
    run = Agent(tools=[get_weather], engine=engine, system="Be brief.").run("Weather?")
    assert run.answer == str(run) == "Cloudy and rainy."
    assert [result.content for result in run.turns[0].results] == ["Cloudy", "Rainy"]
    assert run.turns[0].output == TWO
    assert "## Return of functions.get_weather:1\nRainy" in str(engine.prompts[1])
    assert str(engine.prompts[1]).startswith(str(engine.prompts[0]) + TWO)


def test_a_model_that_calls_nothing_simply_answers() -> None:
    run = Agent(tools=[get_weather], engine=ScriptedEngine(["Hello."])).run("Hi")
    assert (run.answer, len(run.turns)) == ("Hello.", 1)


def test_definitions_alone_are_called_and_not_run() -> None:
    run = Agent(tools=[WEATHER], engine=ScriptedEngine([TWO])).run("Weather?")
    assert run.answer is None
    assert [result.content for result in run.turns[0].results] == [None, None]


def test_the_number_of_turns_is_bounded() -> None:
    run = Agent(tools=[get_weather], engine=ScriptedEngine([TWO]), max_turns=3).run("Weather?")
    assert (run.answer, len(run.turns)) == (None, 3)


def test_inside_an_event_loop_run_says_what_to_do() -> None:
    async def inside() -> None:
        Agent(engine=ScriptedEngine([""])).run("Hi")

    with pytest.raises(RequestError, match=r"iterate over Agent\.stream"):
        asyncio.run(inside())


def test_what_is_no_tool_and_no_turn_is_refused() -> None:
    for one in (3, len.__call__, lambda: 1):
        with pytest.raises(ToolError):
            Agent(tools=[one])  # type: ignore[list-item]
    with pytest.raises(RequestError, match="at least one turn"):
        Agent(max_turns=0)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(RequestError, match="empty"):
        Agent(engine=ScriptedEngine([""])).run(" \n")
