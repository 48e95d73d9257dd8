"""References inside a JSON Schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def resolve(reference: str, root: Any) -> Any:
    """What a `$ref` of the form `#/a/b` points at (a JSON Pointer, RFC 6901), or None where it leads nowhere."""
    node = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        if step:
            node = node.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(node, Mapping) else None
    return node
