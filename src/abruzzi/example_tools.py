"""The tools that `abruzzi run` has when it is given none."""

_WEATHER = {"beijing": "Sunny", "shanghai": "Cloudy"}


def get_weather(location: str) -> str:
    """Get the weather of a city.

    Args:
        location: Name of the city
    """
    return _WEATHER.get(location.strip().lower(), "Rainy")
