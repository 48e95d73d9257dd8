from __future__ import annotations

from typing import Any

from abruzzi import Tool
from abruzzi.guide.grammar import Grammar
from tests.conftest import PING, WEATHER, section


def test_the_embedded_engine_compiles_the_grammar_of_equal_tools_once(embedded: Any) -> None:
    def turn() -> Grammar:
        return Grammar.for_turn([Tool(tool.name, None, tool.parameters) for tool in (WEATHER, PING)], first_index=99)

    first = embedded._matcher(turn())
    compiled = embedded._compiled.cache_info().misses
    again = embedded._matcher(turn())
    assert embedded._compiled.cache_info().misses == compiled
    # Each turn has its own: what one has read the other hasn't.
    ids = embedded._tokenizer.encoding.encode_ordinary(section(("functions.ping:99", "{}")))
    assert first.consume_tokens(ids) and first.is_accepting()
    assert again.consume_tokens(ids) and again.is_accepting()


def test_it_goes_on_within_the_grammar_behind_what_is_written(embedded: Any) -> None:
    turn = Grammar.for_turn([WEATHER, PING], tool_choice="required")
    whole = section(("functions.get_weather:0", '{"location": "Rome"}'))
    encode = embedded._tokenizer.encoding.encode_ordinary
    for length in (1, 30, whole.index("Rome"), whole.index("Rome") + 2, whole.index("}")):
        matcher = embedded._matcher(turn.behind(whole[:length]))
        rest = encode(whole[length:])
        assert matcher.try_consume_tokens(rest) == len(rest) and matcher.is_accepting()
        assert not embedded._matcher(turn.behind(whole[:length])).try_consume_tokens(encode("\1"))
    assert embedded._matcher(turn.behind("The weather")) is None
