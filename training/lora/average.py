"""`average`: the mean of two adapters of the same form, the second of which was trained on from the first.

python -m training.lora.average FIRST.gguf SECOND.gguf --out ADAPTER.gguf [--share 0.5]
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import gguf
import numpy as np


def average(first: Path, second: Path, out: Path, share: float) -> None:
    """Write `first` by 1 - `share` and `second` by `share`. Their factors are averaged, not the products: that is near
    the same where one went on from the other.
    """
    shutil.copyfile(first, out)
    others = {tensor.name: tensor.data for tensor in gguf.GGUFReader(second).tensors}
    for tensor in gguf.GGUFReader(out, "r+").tensors:
        mean = (1 - share) * tensor.data.astype(np.float32) + share * others[tensor.name].astype(np.float32)
        tensor.data[:] = mean.astype(tensor.data.dtype)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.lora.average", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--share", type=float, default=0.5, help="of the second")
    options = parser.parse_args()
    average(options.first, options.second, options.out, options.share)


if __name__ == "__main__":
    main()
