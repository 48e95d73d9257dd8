"""The metadata at the head of a GGUF file.

The `gguf` package reads it too, but makes a NumPy view of each of the 100,000 strings of a vocabulary: over a second,
where the whole of it takes 50 ms to read in order. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import Any

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9


def read_metadata(path: Path) -> dict[str, Any]:
    """The file's key-value pairs; strings as bytes, for a vocabulary's need not be UTF-8. Raises ValueError on what
    is no GGUF.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            return _Reader(data).metadata()
        except (struct.error, KeyError, OverflowError, MemoryError) as error:
            raise ValueError(f"not a whole GGUF file ({error})") from error


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 0

    def metadata(self) -> dict[str, Any]:
        if self.data[:4] != b"GGUF":
            raise ValueError(f"expected a GGUF file, got one that begins with {self.data[:4]!r}")
        self.at = 4
        version = self.scalar("<I")
        if version not in (2, 3):
            raise ValueError(f"expected GGUF version 2 or 3, got {version}")
        self.scalar("<Q")  # the number of tensors
        pairs = self.scalar("<Q")
        return {self.string().decode(): self.value(self.scalar("<I")) for _ in range(pairs)}

    def scalar(self, form: str) -> Any:
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return value

    def string(self) -> bytes:
        length = self.scalar("<Q")
        self.at += length
        if self.at > len(self.data):
            raise struct.error("the file ends inside a string")
        return self.data[self.at - length : self.at]

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.scalar(_SCALARS[kind])
        item, length = self.scalar("<I"), self.scalar("<Q")
        if item in (_STRING, _ARRAY):
            return [self.value(item) for _ in range(length)]
        form = f"<{length}{_SCALARS[item][1]}"
        values = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return list(values)
