"""The hand-written passes against autograd, on a tiny model. Runs where torch and gguf are installed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="only training needs torch")
pytest.importorskip("gguf", reason="only training needs gguf")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch's own modules use what torch deprecates
    import torch

    from training.lora import attention, batches
    from training.lora.adapter import Adapter, load_adapter, new_adapter, save_adapter, widened
    from training.lora.batches import Example, bins, pack
    from training.lora.device import DevicePasses
    from training.lora.errors import LoraError
    from training.lora.model import GROUPS, Model, Shape, build_model
    from training.lora.passes import Passes

SHAPE = Shape(blocks=2, width=32, heads=4, kv_heads=2, epsilon=1e-5, rope_base=10000.0, context=128)
ROWS = {"attn_q": 32, "attn_k": 16, "attn_v": 16, "attn_output": 32, "ffn_gate": 48, "ffn_up": 48, "ffn_down": 32}
SEQUENCES = [Example([1, 7, 3, 9, 4], [0, 0, 1.0, 0.2, 1.0]), Example(list(range(20)), [0.5] * 20)]
# The same beginning and three endings, as a tree and one by one.
BEGINNING, ENDINGS = list(range(30, 48)), ([5, 6], [5, 8, 9, 2, 11], [40] * 9)
TREE = Example(
    [*BEGINNING, *(id for ending in ENDINGS for id in ending)],
    [0.3] * 18 + [1.0] * 2 + [0.2] * 5 + [0.7] * 9,
    [18, 20, 25],
)
BRANCHES = [
    Example([*BEGINNING, *ending], [first] * 18 + [weight] * len(ending))
    for ending, first, weight in zip(ENDINGS, (0.3, 0.0, 0.0), (1.0, 0.2, 0.7), strict=True)
]
# What is packed, and the plain sequences that it stands for.
SAME = {"sequences": (SEQUENCES, SEQUENCES), "tree": ([SEQUENCES[0], TREE], [SEQUENCES[0], *BRANCHES])}


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(attention, "CHUNK", 8)  # several chunks even here
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")


@pytest.fixture
def adapter() -> Adapter:
    torch.manual_seed(0)

    def weight(name: str) -> torch.Tensor:
        layer = name.rpartition(".")[2]
        if layer.endswith("norm"):
            return 1 + 0.1 * torch.randn(32)
        rows, columns = (50, 32) if layer == "token_embd" else (ROWS[layer], 48 if layer == "ffn_down" else 32)
        return 0.2 * torch.randn(rows, columns)

    adapter = new_adapter(build_model(SHAPE, weight, torch.float32), rank=4, seed=0)
    for _, _, b in adapter.layers():
        b.normal_(0, 0.1)
    return adapter


def autograd_loss(model: Model, adapter: Adapter, example: Example) -> torch.Tensor:
    """The weighted sum of the losses of one sequence, computed the plain way."""
    layers = {name: (a, b) for name, a, b in adapter.layers()}

    def linear(x: torch.Tensor, index: int, group: str) -> list[torch.Tensor]:
        block = model.blocks[index]
        outputs = []
        for name, base in zip(
            GROUPS[group], torch.split_with_sizes(block.base[group], block.sizes[group]), strict=True
        ):
            a, b = layers[f"blk.{index}.{name}.weight"]
            outputs.append(x @ base.T + adapter.scale * (x @ a.T @ b.T))
        return outputs

    def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.rms_norm(x, (32,), weight, SHAPE.epsilon)

    def heads(x: torch.Tensor, *, turned: bool) -> torch.Tensor:
        parts = x.view(len(x), -1, SHAPE.head)
        if turned:
            pairs = torch.view_as_complex(parts.reshape(len(x), -1, SHAPE.head // 2, 2))
            parts = torch.view_as_real(pairs * model.turn[: len(x), None]).reshape(parts.shape)
        return parts.repeat_interleave(SHAPE.heads * SHAPE.head // x.shape[1], 1).transpose(0, 1)

    ids = torch.tensor(example.ids)
    x = model.embedding[ids]
    for index, block in enumerate(model.blocks):
        q, k, v = linear(norm(x, block.attn_norm), index, "qkv")
        attended = torch.nn.functional.scaled_dot_product_attention(
            heads(q, turned=True), heads(k, turned=True), heads(v, turned=False), is_causal=True
        )
        x = x + linear(attended.transpose(0, 1).reshape(len(ids), -1), index, "out")[0]
        gate, up = linear(norm(x, block.ffn_norm), index, "up")
        x = x + linear(torch.nn.functional.silu(gate) * up, index, "down")[0]
    logits = norm(x, model.norm) @ model.embedding.T
    losses = torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="none")
    return losses @ torch.tensor(example.weights[1:])


@pytest.mark.parametrize("packed", SAME)
def test_loss_and_gradient_are_those_of_autograd(packed: str, adapter: Adapter) -> None:
    examples, plain = SAME[packed]
    total = sum(sum(example.weights[1:]) for example in examples)
    passes, batch = Passes(adapter), pack(examples, 64)
    adapter.merge()
    x, kept = passes.forward(batch, keep=True)
    losses, _, d = passes.head(batch, x, total)
    passes.backward(batch, d, kept)

    adapter.parameters.requires_grad_()
    adapter.factors = adapter.views(adapter.parameters)
    expected = torch.stack([autograd_loss(adapter.model, adapter, example) for example in plain]).sum() / total
    (gradient,) = torch.autograd.grad(expected, adapter.parameters)
    torch.testing.assert_close(losses @ batch.weights / total, expected.detach())
    assert gradient.abs().max() > 1e-3
    torch.testing.assert_close(adapter.gradient, gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("packed", SAME)
def test_on_a_device_loss_and_gradient_are_the_same(packed: str, adapter: Adapter) -> None:
    examples, _ = SAME[packed]
    total = sum(sum(example.weights[1:]) for example in examples)
    batch, found = pack(examples, 64), []
    for passes in (Passes(adapter), DevicePasses(adapter, "cpu")):
        passes.merge()
        adapter.gradient.zero_()
        with torch.no_grad():
            x, kept = passes.forward(batch, keep=True)
            losses, hits, d = passes.head(batch, x, total)
        with torch.set_grad_enabled(isinstance(passes, DevicePasses)):
            passes.backward(batch, d, kept)  # type: ignore[arg-type]
        found.append((losses, hits, adapter.gradient.clone()))
    (losses, hits, gradient), (own_losses, own_hits, own) = found
    torch.testing.assert_close(own_losses, losses)
    assert torch.equal(own_hits, hits)
    torch.testing.assert_close(own, gradient, rtol=1e-3, atol=1e-6)


def test_a_new_adapter_changes_nothing(adapter: Adapter) -> None:
    fresh = new_adapter(adapter.model, rank=4, seed=1)
    fresh.merge()
    for block in adapter.model.blocks:
        assert all(torch.equal(block.merged[group], block.base[group]) for group in GROUPS)


def test_an_adapter_that_was_saved_is_loaded_as_it_was(adapter: Adapter, tmp_path: Path) -> None:
    save_adapter(adapter, tmp_path / "adapter.gguf")
    again = load_adapter(adapter.model, tmp_path / "adapter.gguf")
    assert again.scale == adapter.scale
    torch.testing.assert_close(again.parameters, adapter.parameters, rtol=1e-3, atol=1e-4)  # float16
    assert [path.name for path in tmp_path.iterdir()] == ["adapter.gguf"]


def test_a_wider_adapter_does_the_same_and_a_narrower_one_is_refused(adapter: Adapter) -> None:
    wide = widened(adapter, 6, seed=1)
    assert (wide.rank, wide.scale) == (6, adapter.scale)
    adapter.merge()
    merged = [{group: block.merged[group].clone() for group in GROUPS} for block in adapter.model.blocks]
    wide.merge()
    for before, block in zip(merged, adapter.model.blocks, strict=True):
        for group in GROUPS:
            torch.testing.assert_close(block.merged[group], before[group])
    with pytest.raises(LoraError, match="--rank 2"):
        widened(adapter, 2, seed=1)


def test_every_example_is_in_one_batch_and_no_batch_is_too_long() -> None:
    examples = [Example([0] * length, [1.0] * length) for length in range(1, 2049, 7)]
    binned = bins(examples)
    assert sorted(len(example.ids) for batch in binned for example in batch) == list(range(1, 2049, 7))
    assert all(len(pack(batch, batches.MICRO_TOKENS).ids) == batches.MICRO_TOKENS for batch in binned)
