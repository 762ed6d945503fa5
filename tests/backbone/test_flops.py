"""The arithmetic of the bound: operations against PyTorch's own counter, positions against what was run."""

import pytest
import torch
from backbones import random_ids, tiny_backbone
from torch.utils.flop_counter import FlopCounterMode

from hmt.backbone.flops import (
    BackboneFlops,
    causal_pairs,
    peak_flops,
)
from hmt.bench.readers import MemoryReader, build_model, system_names
from hmt.bench.settings import Settings

SYSTEMS = [name for name in system_names() if name != "full"]
SETTINGS = Settings(segment_length=16, sensory_length=3, memory_size=5, lengths=(32,))


def counted(function) -> int:
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


@pytest.mark.parametrize("family", ["llama", "llama-tied", "qwen3", "gpt2", "gpt_neox"])
def test_operations_are_those_that_pytorch_counts(family):
    backbone, tokens = tiny_backbone(family), 24
    backbone.set_attn_implementation("eager")  # the counter does not know the CPU's fused kernel
    ids = random_ids(tokens)[None]
    count = BackboneFlops.of(backbone)
    with torch.no_grad():
        # the counter does not know which pairs the causal mask hides
        assert counted(lambda: backbone.base_model(ids)) == count.forward(tokens, tokens * tokens)
        every = counted(lambda: backbone(ids, use_cache=False))
    assert every == count.forward(tokens, tokens**2) + count.logits(tokens)


def test_lengths_at_which_attention_takes_over():
    count = BackboneFlops.of(tiny_backbone())
    half = count.half_attention()
    assert count.attention(causal_pairs(half)) == pytest.approx(count.full_attention(half) / 2, rel=0.02)
    per_segment = 3 * count.forward(16, causal_pairs(16))
    length = count.overtaken(per_segment, 16)
    assert count.full_attention(length) == pytest.approx(per_segment * length / 16, rel=0.02)


def test_pairs():
    pieces = causal_pairs(5) + causal_pairs(3, before=5)
    assert pieces == causal_pairs(8) == sum(range(1, 9))


@pytest.mark.parametrize("name", SYSTEMS)
def test_positions_are_those_that_pass_through_the_backbone(name):
    backbone = tiny_backbone()
    model = build_model(name, backbone, SETTINGS)
    rows = []
    backbone.base_model.register_forward_pre_hook(
        lambda module, arguments, keywords: rows.append(keywords["inputs_embeds"].shape[:2].numel()),
        with_kwargs=True,
    )

    def positions(segments: int) -> int:
        rows.clear()
        MemoryReader(model, chunk=4).read(random_ids(16 * segments)[None])
        return sum(rows)

    # the first segment has no raw tokens before it, and may be read with fewer positions
    assert positions(6) - positions(2) == 4 * sum(model.passes())
    assert positions(2) <= 2 * sum(model.passes())
    assert model.flops_per_segment() > 2 * BackboneFlops.of(backbone).matrices * sum(model.passes())


@pytest.mark.parametrize("name", SYSTEMS)
def test_operations_of_a_segment_are_those_that_pytorch_counts(name):
    """Within what is left out: positions of the mask that are hidden, recall, normalisers."""
    backbone = tiny_backbone()
    backbone.set_attn_implementation("eager")
    model = build_model(name, backbone, SETTINGS).requires_grad_(False)
    if "window_length" in model.sizes:
        model = model.resized(window_length=16)  # one that is filled here
    reader, ids = MemoryReader(model, chunk=1), random_ids(16 * 7)[None]
    per_segment = (counted(lambda: reader.read(ids)) - counted(lambda: reader.read(ids[:, : 16 * 4]))) / 3
    count = BackboneFlops.of(backbone)
    hidden = sum(count.attention(row * row - causal_pairs(row)) for row in model.passes())
    assert per_segment == pytest.approx(model.flops_per_segment() + hidden, rel=0.12)


def test_recall_queries_are_systems():
    assert {"hmt-segment", "hmt-previous", "hmt-memory", "hmt-inline", "rmt", "full"} <= set(system_names())


def test_peak_of_the_device():
    assert peak_flops("NVIDIA H200", "bfloat16") == 989e12
    assert peak_flops("NVIDIA H200", "float32") is None and peak_flops("", "bfloat16") is None
    assert peak_flops("", "float32", given=2.0) == 2e12
