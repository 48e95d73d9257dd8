"""A number of seconds as an option's value."""

from __future__ import annotations

import math
from typing import Any

import click


class Seconds(click.FloatRange):
    """Seconds within a range; neither `inf` nor `nan` are any."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        read = super().convert(value, param, ctx)
        if not math.isfinite(read):
            self.fail(f"expected a number of seconds, got {value}", param, ctx)
        return read
