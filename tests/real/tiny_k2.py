"""A Kimi K2 of 2.4 million random weights: `python tests/real/tiny_k2.py FOLDER` writes a checkpoint that vLLM serves.

The architecture, the names of the weights and the control tokens are K2's; the vocabulary is our own. With
`--ranks 163584` it is as large as K2's, so that control tokens have K2's ids and `tiktoken.model` is one that Abruzzi's
own tokenizer reads: for engines that are given ids. Everything is the same each time it is made.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import math
import random
import statistics
import string
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from abruzzi.protocol.markers import (
    ARGUMENT_BEGIN,
    CALL_BEGIN,
    CALL_END,
    SECTION_BEGIN,
    SECTION_END,
    THINK_BEGIN,
    THINK_END,
)
from abruzzi.protocol.tokens import _PATTERN, _RANKS
from abruzzi.protocol.variants import K2_CONTROL_IDS

K2_RANKS = _RANKS
RANKS = 2_048
"""Ordinary tokens of the small vocabulary; 256 ids for control tokens follow, as in K2's."""
# Pieces of JSON, which a vocabulary without them would need a token a character for.
_JSON = ['{"', '":', '": ', '": "', '",', '", ', '", "', '"}', '"}}', "[{", "}]", "},", "[[", "]]", "{}", "[]", "[ ",
         "{ ", ": ", ", ", "  ", "    ", "\n\n", "true", "false", "null", "functions.", "_", "location"]  # fmt: skip
# All but these are special, which means that a tokenizer hides them in its text.
_SHOWN = frozenset((SECTION_BEGIN, SECTION_END, CALL_BEGIN, ARGUMENT_BEGIN, CALL_END, THINK_BEGIN, THINK_END))

_HIDDEN, _LAYERS, _DENSE, _EXPERTS = 128, 3, 1, 8
_HEADS, _Q_LORA, _KV_LORA, _NOPE, _ROPE, _VALUE = 4, 96, 512, 64, 64, 64  # on CPU vLLM knows no other 512 and 64
_WIDE, _NARROW = 256, 64  # of the dense layer's MLP, of an expert's


def make(folder: str | Path, ranks: int = RANKS) -> Path:
    """Write the checkpoint; returns its folder. Takes half a second, and three for K2's number of ranks."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    words = list(itertools.islice(_words(), ranks))
    controls = control_ids(ranks)
    added = {id: _added(spelling) for spelling, id in controls.items()}
    end = controls["<|im_end|>"]
    _write_json(folder / "config.json", _config(ranks + len(added), end))
    _write_json(folder / "generation_config.json", {"eos_token_id": end})
    _write_json(folder / "tokenizer.json", _tokenizer(words, added))
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(added))
    lines = (b"%s %d\n" % (base64.b64encode(word), rank) for rank, word in enumerate(words))
    (folder / "tiktoken.model").write_bytes(b"".join(lines))
    _write_weights(folder / "model.safetensors", _shapes(ranks + len(added)))
    return folder


def control_ids(ranks: int = RANKS) -> dict[str, int]:
    """The ids of the control tokens: they follow the ordinary ones in K2's order."""
    spellings = (K2_CONTROL_IDS.get(id, f"<|reserved_token_{id}|>") for id in range(_RANKS, _RANKS + 256))
    return {spelling: ranks + number for number, spelling in enumerate(spellings)}


def _words() -> Iterator[bytes]:
    """Ordinary tokens: all bytes, pieces of JSON, then letters, by length. Each beginning of one is one, too, so that
    merges lead there.
    """
    letters = (
        start + "".join(word)
        for length in itertools.count(2)
        for word in itertools.product(string.ascii_lowercase, repeat=length)
        for start in ("", " ")
    )
    pieces = (piece[:end].encode() for piece in itertools.chain(_JSON, letters) for end in range(2, len(piece) + 1))
    known = set[bytes]()
    for word in itertools.chain((bytes([byte]) for byte in range(256)), pieces):
        if word not in known:
            known.add(word)
            yield word


def _tokenizer(words: Sequence[bytes], added: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
    """The vocabulary as byte-level BPE of the library `tokenizers`: a merge for each way to put a token together."""
    spellings = _spellings()
    spelt = {word: "".join(spellings[byte] for byte in word) for word in words}
    merges = [
        [spelt[word[:cut]], spelt[word[cut:]]]
        for word in words
        for cut in range(1, len(word))
        if word[:cut] in spelt and word[cut:] in spelt
    ]
    split = {"type": "Split", "pattern": {"Regex": _PATTERN}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "added_tokens": [{"id": id, **token} for id, token in added.items()],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "decoder": level,
        "model": {"type": "BPE", "vocab": {spelt[word]: id for id, word in enumerate(words)}, "merges": merges},
    }


def _spellings() -> Sequence[str]:
    """GPT-2's characters for bytes: themselves where they can be seen, else those behind U+00FF, in order."""
    seen = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = itertools.count(0x100)
    return [chr(byte if byte in seen else next(others)) for byte in range(256)]


def _tokenizer_config(added: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "[BOS]",
        "eos_token": "<|im_end|>",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {str(id): token for id, token in added.items()},
    }


def _added(spelling: str) -> dict[str, Any]:
    flags = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)
    return {"content": spelling, "special": spelling not in _SHOWN, **flags}


def _config(vocabulary: int, end: int) -> dict[str, Any]:
    return {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "kimi_k2",
        "torch_dtype": "bfloat16",
        "vocab_size": vocabulary,
        "bos_token_id": end - 2,
        "eos_token_id": end,
        "max_position_embeddings": 8192,
        "rope_theta": 50000.0,
        "rope_scaling": None,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "attention_bias": False,
        "hidden_size": _HIDDEN,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _HEADS,
        "q_lora_rank": _Q_LORA,
        "kv_lora_rank": _KV_LORA,
        "qk_nope_head_dim": _NOPE,
        "qk_rope_head_dim": _ROPE,
        "v_head_dim": _VALUE,
        "intermediate_size": _WIDE,
        "moe_intermediate_size": _NARROW,
        "moe_layer_freq": 1,
        "first_k_dense_replace": _DENSE,
        "n_routed_experts": _EXPERTS,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "num_nextn_predict_layers": 0,
    }


def _shapes(vocabulary: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The names of DeepSeek-V3's weights, each with its shape: (out, in) of a matrix."""
    yield "model.embed_tokens.weight", (vocabulary, _HIDDEN)
    for layer in range(_LAYERS):
        own, attention = f"model.layers.{layer}", f"model.layers.{layer}.self_attn"
        yield f"{own}.input_layernorm.weight", (_HIDDEN,)
        yield f"{attention}.q_a_proj.weight", (_Q_LORA, _HIDDEN)
        yield f"{attention}.q_a_layernorm.weight", (_Q_LORA,)
        yield f"{attention}.q_b_proj.weight", (_HEADS * (_NOPE + _ROPE), _Q_LORA)
        yield f"{attention}.kv_a_proj_with_mqa.weight", (_KV_LORA + _ROPE, _HIDDEN)
        yield f"{attention}.kv_a_layernorm.weight", (_KV_LORA,)
        yield f"{attention}.kv_b_proj.weight", (_HEADS * (_NOPE + _VALUE), _KV_LORA)
        yield f"{attention}.o_proj.weight", (_HIDDEN, _HEADS * _VALUE)
        yield f"{own}.post_attention_layernorm.weight", (_HIDDEN,)
        if layer < _DENSE:
            yield from _mlp(f"{own}.mlp", _WIDE)
            continue
        yield f"{own}.mlp.gate.weight", (_EXPERTS, _HIDDEN)
        yield f"{own}.mlp.gate.e_score_correction_bias", (_EXPERTS,)
        yield from _mlp(f"{own}.mlp.shared_experts", _NARROW)
        for expert in range(_EXPERTS):
            yield from _mlp(f"{own}.mlp.experts.{expert}", _NARROW)
    yield "model.norm.weight", (_HIDDEN,)
    yield "lm_head.weight", (vocabulary, _HIDDEN)


def _mlp(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.gate_proj.weight", (width, _HIDDEN)
    yield f"{name}.up_proj.weight", (width, _HIDDEN)
    yield f"{name}.down_proj.weight", (_HIDDEN, width)


def _write_weights(path: Path, shapes: Iterator[tuple[str, tuple[int, ...]]]) -> None:
    """The format is safetensors': the header's length, the header, and all bytes in its order."""
    random_bytes = random.Random(0).randbytes
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    tensors: list[bytes] = []
    end = 0
    for name, shape in shapes:
        tensors.append(_weights(name, shape, random_bytes(math.prod(shape))))
        begin, end = end, end + len(tensors[-1])
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    head = json.dumps(header).encode()
    with path.open("wb") as file:
        file.writelines((struct.pack("<Q", len(head)), head, *tensors))


def _weights(name: str, shape: tuple[int, ...], drawn: bytes) -> bytes:
    """Normally distributed, with 256 different values: each byte that was drawn is one's number. Norms are all ones.

    The deviations keep what flows through near 1, and that of the logits at 2: some tokens are likelier than others,
    and which ones depends on all that came before.
    """
    if name.endswith("norm.weight"):
        return _bfloat16(1.0) * len(drawn)
    deviation = 2 / math.sqrt(_HIDDEN) if name.startswith("lm_head") else 1 / math.sqrt(shape[-1])
    if name.startswith("model.embed"):
        deviation = 1.0
    normal = statistics.NormalDist(0.0, deviation)
    low, high = zip(*(_bfloat16(normal.inv_cdf((number + 0.5) / 256)) for number in range(256)), strict=True)
    written = bytearray(2 * len(drawn))
    written[::2], written[1::2] = drawn.translate(bytes(low)), drawn.translate(bytes(high))
    return bytes(written)


def _bfloat16(value: float) -> bytes:
    """Little-endian: the upper half of a float32."""
    return struct.pack("<f", value)[2:]


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ranks", type=int, default=RANKS, help="ordinary tokens (default: %(default)s)")
    options = parser.parse_args()
    print(make(options.folder, options.ranks))
