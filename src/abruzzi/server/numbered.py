"""Engines by their numbers, for clients that may not see what runs here."""

from __future__ import annotations

import copy
import re
from urllib.parse import urlsplit

from abruzzi.engines.base import Engine, called
from abruzzi.protocol.errors import AbruzziError, EngineError
from abruzzi.server.metrics import engines_of

# Without what ends a sentence behind it.
_URL = r"https?://[^\s'\"<>]*[^\s'\"<>:;,.)]"
_LABEL = re.compile(r'(?<=[{,]engine=")[^"]*')


class Numbered:
    """Puts `engine 2` in the place of where the second engine is, and `another address` in that of any other URL."""

    def __init__(self, engine: Engine) -> None:
        self._numbers: dict[str, str] = {}
        for number, row in enumerate(engines_of(engine), 1):
            if (url := row["url"]) is not None:
                # As errors of engines, of pools and of certificates have it.
                for known in (url, called(url, ""), f"'{urlsplit(url).hostname}'"):
                    self._numbers.setdefault(known, f"engine {number}")
        self._known = sorted(self._numbers, key=len, reverse=True)
        self._addresses = re.compile(rf"(?<![\w.-])(?:{'|'.join((_URL, *map(re.escape, self._known)))})(?!\w)")

    def error(self, error: AbruzziError) -> AbruzziError:
        """The same without an address of an engine's."""
        if not isinstance(error, EngineError) or not self._addresses.search(str(error)):
            return error
        told = copy.copy(error)
        told.args = (self._addresses.sub(self._number, str(error)),)
        return told

    def metrics(self, text: bytes) -> bytes:
        """Prometheus' text, with numbers for the label `engine`."""
        return _LABEL.sub(lambda found: self._numbers.get(found[0], found[0]), text.decode()).encode()

    def _number(self, found: re.Match[str]) -> str:
        address = found[0]
        its = next((known for known in self._known if f"{address}/".startswith(f"{known}/")), None)
        return "another address" if its is None else self._numbers[its]
