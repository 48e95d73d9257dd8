"""A model's folder, as far as it tells which format the model speaks."""

from __future__ import annotations

from pathlib import Path

import msgspec

from abruzzi.protocol.errors import RequestError
from abruzzi.protocol.variants import Variant, variant_of_config


def variant_of_folder(folder: Path) -> Variant | None:
    """The variant that the folder's `config.json` tells of; None where there is none, or it is another model's.

    Raises RequestError for a file that can't be read, and for a Kimi K3.
    """
    file = folder / "config.json"
    try:
        config = msgspec.json.decode(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, RecursionError) as error:
        raise RequestError(f"expected a model's configuration in {file}: {error}") from None
    if not isinstance(config, dict):
        raise RequestError(f"expected a model's configuration, an object, in {file}")
    return variant_of_config(config)
