"""Weights in 4 and 8 bits beside their own: for few positions, close to them, and never instead of them."""

import copy

import pytest
import torch
from backbones import tiny_backbone
from torch import nn

from hmt import HMTForCausalLM, load_model
from hmt import backbone as bb
from hmt.backbone import PackedLinear, pack_linears


def of_four_bits(rows, columns, generator):
    """A weight as GGUF's Q4_1 unpacks to, in bfloat16."""
    codes = torch.randint(0, 16, (rows, columns // 32, 32), generator=generator)
    codes[..., 0], codes[..., 1] = 0, 15
    scale = torch.rand(rows, columns // 32, 1, generator=generator).half() * 0.02 + 0.001
    return (codes * scale.float() - 7 * scale.float()).flatten(1).bfloat16()


@pytest.fixture
def linear():
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(128, 48, dtype=torch.bfloat16)
    with torch.no_grad():
        layer.weight.copy_(of_four_bits(48, 128, generator))
    return layer


def change(found, want):
    return ((found - want).float().norm() / want.float().norm()).item()


@torch.no_grad()
@pytest.mark.parametrize("bits", [4, 8])
def test_few_vectors_come_close_and_many_are_exact(linear, bits):
    if bits == 8:
        linear.weight.normal_(0.0, 0.02)
    packed = PackedLinear.of(linear)
    assert packed.bits == bits and packed.weight is linear.weight
    for shape in ((1, 1, 128), (4, 128), (2, 2, 128)):
        vectors = torch.randn(shape).bfloat16()
        found, want = packed(vectors), linear(vectors)
        assert found.shape == want.shape and found.dtype == torch.bfloat16
        assert not torch.equal(found, want) and change(found, want) < 0.02
    many = torch.randn(1, 5, 128).bfloat16()
    assert torch.equal(packed(many), linear(many))


def test_gradients_take_the_weight_itself(linear):
    packed, vector = PackedLinear.of(linear), torch.randn(1, 128).bfloat16()
    assert torch.equal(packed(vector), linear(vector))
    packed(vector).sum().backward()
    assert linear.weight.grad is not None


@torch.no_grad()
def test_a_weight_that_changed_is_packed_again(linear):
    packed, vector = PackedLinear.of(linear), torch.randn(1, 128).bfloat16()
    linear.weight.mul_(3)
    assert change(packed(vector), linear(vector)) < 0.02
    linear.weight.data = linear.weight.data.neg()
    assert change(packed(vector), linear(vector)) < 0.02


@pytest.fixture
def models():
    """The same model plain and packed; the head of 97 tokens does not fit the kernel and stays."""
    backbone = tiny_backbone("llama").to(torch.bfloat16)
    plain = HMTForCausalLM.from_backbone(backbone, segment_length=8, recall_query="memory").eval()
    packed = copy.deepcopy(plain)
    counts = packed.pack_weights()
    assert counts == {8: sum(m.weight.numel() for m in packed.modules() if isinstance(m, PackedLinear))}
    return plain, packed


def test_a_model_reads_as_before_and_decodes_closely(models):
    plain, packed = models
    ids = torch.randint(0, 97, (1, 21), generator=torch.Generator().manual_seed(1))
    memories = [model.read(ids) for model in models]
    assert all(torch.equal(a, b) for a, b in zip(*(m.state.tensors.values() for m in memories), strict=True))
    with torch.no_grad():
        for model, memory in zip(models, memories, strict=True):
            model(ids[:, :1], past_key_values=memory)  # opens the segment: many positions
        again = [m(ids[:, :1], past_key_values=s).logits for m, s in zip(models, memories, strict=True)]
    assert 0 < change(again[1], again[0]) < 0.05
    assert packed.caching == plain.caching and packed.caching.works


def test_checkpoints_and_identity_do_not_see_it(models, tmp_path):
    plain, packed = models
    assert list(plain.state_dict()) == list(packed.state_dict())
    prints = [str(bb.fingerprint(m.config, bb.tensors(m))) for m in models]
    assert prints[0] == prints[1]
    packed.save_pretrained(tmp_path, adapter_only=False)
    loaded, state = load_model(tmp_path), plain.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    assert not any(isinstance(module, PackedLinear) for module in loaded.modules())


def test_what_cannot_be_packed_is_refused():
    with pytest.raises(ValueError, match="have to be bfloat16"):
        pack_linears(tiny_backbone("llama"))
