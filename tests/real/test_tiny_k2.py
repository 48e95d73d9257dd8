"""The tiny K2 is what it says, as far as that can be told without an engine."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from abruzzi.protocol.messages import Message
from abruzzi.protocol.template import render_prompt
from abruzzi.protocol.tokens import Tokenizer
from abruzzi.protocol.variants import K2, K2_CONTROL_IDS, variant_of_config
from tests.conftest import WEATHER, section
from tests.real import tiny_k2

TEXTS = (
    '{"location": "Rome", "unit": "c"}',
    "What's the weather like?",
    "上海天气 🎉 ñ",
    "x = [1234, 5]\r\n\r\n  end\t",
)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_k2.make(tmp_path_factory.mktemp("large"), 163_584)


def test_with_k2s_number_of_ranks_our_own_tokenizer_reads_it_and_ids_are_k2s(large: Path) -> None:
    tokenizer = Tokenizer.from_folder(large)
    assert K2_CONTROL_IDS.items() <= {id: str(spelling) for id, spelling in tokenizer.spellings.items()}.items()
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_both_forms_of_its_vocabulary_give_the_same_ids(large: Path) -> None:
    """So an engine that is given a text, or ids, is given the same."""
    tokenizers = pytest.importorskip("tokenizers")
    prompt = render_prompt([Message("user", text) for text in TEXTS], tools=[WEATHER], variant="k2")
    theirs = tokenizers.Tokenizer.from_file(str(large / "tokenizer.json"))
    assert theirs.encode(str(prompt), add_special_tokens=False).ids == Tokenizer.from_folder(large).encode_prompt(
        prompt
    )


def test_a_tokenizer_hides_special_tokens_and_no_markers(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(tiny_k2.make(tmp_path) / "tokenizer.json"))
    call = section(("functions.ping:0", "{}"))
    ids = tokenizer.encode(f"{call}<|im_end|>").ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == call
    assert tokenizer.decode(ids, skip_special_tokens=False) == f"{call}<|im_end|>"


def test_it_is_the_same_each_time_and_its_weights_are_whole(tmp_path: Path) -> None:
    first, again = (tiny_k2.make(tmp_path / name) for name in ("first", "again"))
    written = (first / "model.safetensors").read_bytes()
    assert written == (again / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", written[:8])
    header = json.loads(written[8 : 8 + length])
    assert max(tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__") == (
        len(written) - 8 - length
    )


def test_its_configuration_is_a_k2s(tmp_path: Path) -> None:
    config = json.loads((tiny_k2.make(tmp_path) / "config.json").read_text())
    assert variant_of_config(config) is K2
    assert config["eos_token_id"] == tiny_k2.control_ids()["<|im_end|>"]
