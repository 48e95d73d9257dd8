from __future__ import annotations

from pathlib import Path

import pytest

from abruzzi.engines.launch.command import read
from abruzzi.engines.launch.llm_api_keys import PLACES, RENAMED
from abruzzi.engines.launch.llm_api_options import check
from abruzzi.protocol.errors import RequestError

# As Moonshot's deployment guide for K2 has it, but for the sizes, of which it has more.
GUIDE = """cuda_graph_config:
  enable_padding: true
  batch_sizes:
    - 1
    - 2
    - 128
enable_attention_dp: true
"""


def notes(folder: Path, text: str) -> str:
    file = folder / "options.yaml"
    file.write_text(text)
    return "\n".join(check(file).notes).replace(f"{file}: ", "")


def faults(folder: Path, text: str) -> list[str]:
    with pytest.raises(RequestError) as error:
        notes(folder, text)
    return str(error.value).replace(str(folder / "options.yaml"), "F").splitlines()


def test_what_matters_is_told(tmp_path: Path) -> None:
    graphs, attention, guided = notes(tmp_path, GUIDE).splitlines()
    assert graphs.startswith(
        "cuda_graph_config: tokens are made by CUDA graphs for 3 batch sizes up to 128; others are"
    )
    assert attention.startswith("enable_attention_dp: each GPU attends to requests of its own")
    assert guided.startswith("without guided_decoding_backend: xgrammar the engine obeys no grammar")
    assert notes(tmp_path, "cuda_graph_config: null\nguided_decoding_backend: xgrammar").startswith(
        "cuda_graph_config: off"
    )
    assert notes(tmp_path, "guided_decoding_backend: xgrammar\nenable_attention_dp: false") == ""
    assert "can't take K2's vocabulary" in notes(tmp_path, "guided_decoding_backend: llguidance")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("cuda_graphs_config: {}", "F:1: unknown key cuda_graphs_config: cuda_graph_config is meant?"),
        ("a_b: 1\nenable_atention_dp: true", "F:2: unknown key enable_atention_dp: enable_attention_dp is meant?"),
        ("max-batch-size: 8", "F:1: unknown key max-batch-size: max_batch_size is meant?"),
        (
            "cuda_graph_config:\n  enable_paddings: true",
            "F:2: unknown key enable_paddings in cuda_graph_config: enable_padding is meant?",
        ),
        ("free_gpu_memory_fraction: 0.8", "F:1: free_gpu_memory_fraction has no meaning at the top: it belongs in"
         " kv_cache_config"),
        ("kv_cache_config:\n  enable_attention_dp: true", "F:2: enable_attention_dp has no meaning in kv_cache_config:"
         " it belongs at the top, not indented"),
        ("max_batch_size: lots", "F:1: expected an integer or null for max_batch_size, got 'lots'"),
        ("max_batch_size: 1.5", "F:1: expected an integer or null for max_batch_size, got 1.5"),
        ("max_num_tokens: true", "F:1: expected an integer or null for max_num_tokens, got true"),
        ("enable_attention_dp: 'maybe'", "F:1: expected true or false for enable_attention_dp, got 'maybe'"),
        ("enable_attention_dp:", "F:1: expected true or false for enable_attention_dp, got null"),
        ("kv_cache_config: 0.9", "F:1: expected keys and values for kv_cache_config, got 0.9"),
        ("cuda_graph_config: true", "F:1: expected keys and values or null for cuda_graph_config, got true"),
        ("cuda_graph_config: {batch_sizes: [1, two]}", "F:1: expected a list of integers or null for batch_sizes, got"
         " [1, two]"),
        ("guided_decoding_backend: outlines", "F:1: expected xgrammar or llguidance or null for"
         " guided_decoding_backend, got 'outlines'"),
        ("moe_config:\n  backend: 3", "F:2: expected a text for backend, got 3"),
        ("a: 1\nmax_seq_len: 1e3", "F:2: expected an integer or null for max_seq_len, got '1e3'"),
        ("cuda_graph_config: {batch_sizes: [1e3]}", "F:1: expected a list of integers or null for batch_sizes, got"
         " [1e3]"),
        ("MAX_BATCH_SIZE: 5", "F:1: unknown key MAX_BATCH_SIZE: max_batch_size is meant?"),
        # as in K2's own guide, of July 2025
        ("cuda_graph_config:\n  padding_enabled: true", "F:2: padding_enabled in cuda_graph_config is enable_padding"
         " since version 1.0"),
        ("a: 1\nuse_cuda_graph: true", "F:2: use_cuda_graph is cuda_graph_config: {} for true, cuda_graph_config: null"
         " for false since version 1.0"),
        ("moe_backend: TRTLLM", "F:1: moe_backend is moe_config: {backend: ...} since version 1.0"),
        ("skip_tokenizer_init: true", "F:1: skip_tokenizer_init can't stay: it couldn't read a prompt of text then"),
        ("? [a, b]\n: 1", "F:1: expected a name for a key, got a list or keys and values"),
        ("a: 1\nmax_seq_len: 2\nmax_seq_len: 3", "F:3: max_seq_len stands twice, in line 2 too"),
    ],
)  # fmt: skip
def test_faults_are_told_with_their_line(text: str, fault: str, tmp_path: Path) -> None:
    head, *rest = faults(tmp_path, text)
    assert "--no-check" in head and rest == [fault]


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    _, first, second = faults(tmp_path, "max_seq_len: x\nb: 1\nmax_batch_size: y")
    assert first.startswith("F:1: ") and second.startswith("F:3: ")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [1", "F:1: expected YAML: "),
        ("a: 1\n\tb: 2", "F:2: expected YAML: "),
        ("- a", "expected keys and values in F, got a list"),
        ("", "expected keys and values in F, got nothing"),
        ("a: !!python/object:os.system x", "F:1: expected YAML: could not determine a constructor"),
        ("a: *b", "F:1: expected YAML: found undefined alias"),
        ("a: \0", "F: expected YAML: "),
        ("b: 1\na: 2020-13-45", "F:2: expected YAML: a value that is none (ValueError: month must be in 1..12"),
        ("a: [1, 2020-13-45]", "F:1: expected YAML: a value that is none"),
        *((f"max_seq_len: !!{value}", "F:1: expected YAML: a value that is none")
          for value in ("int abc", "float x", "bool maybe", "timestamp x")),
        (f"max_seq_len: {'9' * 5000}", "F:1: expected YAML: a value that is none"),
        ("a: " + "[" * 5000, "F: expected a few levels, got one inside another too many times"),
    ],
)  # fmt: skip
def test_what_is_no_yaml_of_options_is_told(text: str, told: str, tmp_path: Path) -> None:
    assert faults(tmp_path, text)[0].startswith(told)


def test_what_pydantic_takes_is_taken(tmp_path: Path) -> None:
    text = """
base: &base {free_gpu_memory_fraction: 1e-1, max_tokens: "4096"}
kv_cache_config:
  <<: *base
  max_tokens: null
enable_attention_dp: "yes"
disable_overlap_scheduler: 1
max_batch_size: "8"
max_seq_len: 4096.0
max_num_tokens: 1_000
max_beam_width: 1.
cuda_graph_config: {batch_sizes: null, max_batch_size: 64}
guided_decoding_backend: null
speculative_config: {decoding_type: MTP, num_nextn_predict_layers: 3}
a_key_of_tomorrow: {x: 1}
"""
    told = notes(tmp_path, text)
    assert "a_key_of_tomorrow isn't known here, and goes to the engine as it stands" in told
    assert "batch sizes up to 64" in told


def test_a_key_that_is_not_known_in_a_section_is_told(tmp_path: Path) -> None:
    told = notes(tmp_path, "cuda_graph_config:\n  sizes_of_tomorrow: true\n")
    assert "sizes_of_tomorrow in cuda_graph_config isn't known here, and goes to the engine as it stands" in told


def test_no_key_that_was_renamed_is_known(tmp_path: Path) -> None:
    for place, name in RENAMED:
        assert name not in PLACES[place]


def test_no_known_key_is_taken_for_a_misspelled_one(tmp_path: Path) -> None:
    for key, kind in PLACES[""].items():
        if kind.is_optional:
            notes(tmp_path, f"{key}: null")


def test_the_yaml_counts_before_flags(tmp_path: Path) -> None:
    file = tmp_path / "o.yaml"
    file.write_text("tensor_parallel_size: 4")
    found = read(["trtllm-serve", "kimi-k2", "--tp_size", "8", "--config", str(file)])
    assert f"{file}: its tensor_parallel_size counts, and not the option's" in found.notes
    file.write_text("model: /x\nkv_cache_config: {free_gpu_memory_fraction: 0.8}\nmax_seq_len: 4096\nbackend: pytorch")
    words = ["trtllm-serve", "kimi-k2", "--kv_cache_free_gpu_memory_fraction", "0.9", "--backend", "tensorrt"]
    notes = read([*words, "--config", str(file)]).notes
    counts = [note.partition(": its ")[2] for note in notes if ": its " in note]
    assert counts == [
        "kv_cache_config.free_gpu_memory_fraction counts, and not the option's",
        "backend counts, and not the option's",
        "model counts, and not the command's",
    ]
    file.write_text("tensor_parallel_sizes: 4")
    assert read(["trtllm-serve", "kimi-k2", f"--config={file}"], checks_files=False).notes


@pytest.mark.parametrize("spelled", ["false", "no", '"False"', '"off"', "0"])
def test_a_k2_is_not_served_without_its_checkpoints_code(tmp_path: Path, spelled: str) -> None:
    file = tmp_path / "o.yaml"
    file.write_text(f"max_seq_len: 4096\ntrust_remote_code: {spelled}\n")
    with pytest.raises(RequestError, match=r"o\.yaml:2: trust_remote_code can't be false: K2's checkpoint brings code"):
        read(["trtllm-serve", "kimi-k2", "--config", str(file)])
    other = read(["trtllm-serve", "Qwen/Qwen3-8B", "--trust_remote_code", "--config", str(file)])
    assert f"{file}: its trust_remote_code counts, and not the option's" in other.notes
