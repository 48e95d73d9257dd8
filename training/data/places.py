"""Requests for the weather of well-known places: what a newcomer tries first, in K2's format and in the pythonic one.

Behind a quotation mark a name is cut into other tokens than behind a blank ("Be", "ijing"), and a small model has to
see each of them there once.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence

from training.data.irrelevant import Row, second_stage

_PLACES = """Beijing|Shanghai|Guangzhou|Shenzhen|Hangzhou|Chengdu|Hong Kong|Taipei|Tokyo|Osaka|Kyoto|Seoul|Busan|Bangkok
Hanoi|Manila|Jakarta|Singapore|Kuala Lumpur|Delhi|Mumbai|Kolkata|Karachi|Dhaka|Tehran|Baghdad|Dubai|Istanbul|Ankara
Jerusalem|Cairo|Lagos|Nairobi|Johannesburg|Cape Town|Casablanca|Moscow|Kyiv|Warsaw|Prague|Vienna|Budapest|Berlin|Munich
Hamburg|Zurich|Geneva|Paris|Lyon|London|Manchester|Edinburgh|Dublin|Madrid|Barcelona|Lisbon|Rome|Milan|Naples|Athens
Stockholm|Oslo|Copenhagen|Helsinki|Amsterdam|Brussels|New York|Boston|Chicago|Seattle|San Francisco|Los Angeles|Denver
Austin|Houston|Miami|Toronto|Vancouver|Montreal|Mexico City|Havana|Bogotá|Lima|Quito|Santiago|Buenos Aires|São Paulo
Rio de Janeiro|Sydney|Melbourne|Perth|Auckland|Honolulu|Reykjavik|L'Aquila|Pescara""".replace("\n", "|").split("|")
_ASKED = (
    "What's the weather like in {} today?",
    "What is the weather in {}?",
    "How's the weather in {} right now?",
    "Weather in {}, please",
    "Is it raining in {}?",
    "tell me the weather for {}",
)
_NAMES = ("get_weather", "get_weather", "getWeather", "weather", "current_weather", "weather_lookup")
_PARAMETERS = ("location", "location", "city", "place")
_ASK_PYTHONIC = (
    "Call functions in the format [name(key='value', ...), ...] and write nothing else then.",
    "Answer with function calls and nothing else, in the format [name(key1='value1', key2='value2')].",
    "The API requests should be output in the format [api_name(key1='value1', key2='value2', ...)].",
)


# How much of the second stage goes into the third, so that nothing is forgotten.
_SHARE = 0.22


def third_stage(rows: Sequence[Row], rng: random.Random) -> list[Row]:
    """The conversations for a last, short training: the places among a part of the second stage's."""
    mixed = [row for row in second_stage(rows, rng) if rng.random() < _SHARE] + places(rng)
    rng.shuffle(mixed)
    return mixed


def places(rng: random.Random) -> list[Row]:
    """Four conversations a place: two in each format, one of them with the place in small letters."""
    spelled = [spelling for place in _PLACES for spelling in (place, rng.choice((place, place.lower())))]
    return [_asked(place, pythonic, rng) for place in spelled for pythonic in (False, True)]


def _asked(place: str, pythonic: bool, rng: random.Random) -> Row:
    name, parameter = rng.choice(_NAMES), rng.choice(_PARAMETERS)
    schema = {"type": "object", "properties": {parameter: {"type": "string"}}, "required": [parameter]}
    function = {"name": name, "description": "Get the weather of a city.", "parameters": schema}
    messages: list[Row] = [{"role": "user", "content": rng.choice(_ASKED).format(place)}]
    if pythonic:
        system = rng.choice(_ASK_PYTHONIC)
        messages.insert(0, {"role": "system", "content": system})
        answer: Row = {"role": "assistant", "content": f"[{name}({parameter}={place!r})]", "train": True}
    else:
        called = {"name": name, "arguments": json.dumps({parameter: place}, ensure_ascii=False)}
        calls = [{"id": f"functions.{name}:0", "type": "function", "function": called}]
        answer = {"role": "assistant", "content": "", "tool_calls": calls, "train": True}
    messages.append(answer)
    return {
        "messages": messages,
        "tools": [{"type": "function", "function": function}],
        "tool_format": "pythonic" if pythonic else "k2",
        "source": "places",
    }
