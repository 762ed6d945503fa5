"""Recall that begins as a whitening, and the first layers of a backbone alone."""

import pytest
import torch
from backbones import random_ids, tiny_backbone

from hmt import HMTForCausalLM
from hmt import backbone as bb
from hmt.systems.hmt.whitening import RIDGE, whiten

FIELDS = {"segment_length": 8, "recall_query": "previous", "write_prompt": "alone", "passages": 1}


def test_whitening_is_its_formulas():
    generator = torch.Generator().manual_seed(0)
    memory = torch.randn(50, 6, generator=generator) * torch.tensor([9.0, 3, 1, 1, 0.3, 0.1]) + 5
    asked = torch.randn(20, 6, generator=generator) + torch.tensor([8.0, 0, 0, 0, 0, 2])
    query, key = whiten(memory, asked, 6, spread=1.5)
    assert query.dtype == key.dtype == torch.float32 and query.shape == key.shape == (6, 6)
    # the metric of the keys is the inverse of the covariance, with a ridge on its eigenvalues
    covariance = torch.cov(memory.double().T)
    ridge = RIDGE * covariance.trace() / 6 * torch.eye(6).double()
    inverse = torch.linalg.inv(covariance + ridge)
    torch.testing.assert_close(key.T.double() @ key.double(), inverse, atol=1e-4, rtol=1e-3)
    # what all questions share scores nothing, and scores have the deviation that was asked for
    common = asked.mean(0) / asked.mean(0).norm()
    assert (query @ common).abs().max() < 1e-4 * query.abs().max()
    scores = (asked @ query.T) @ (memory @ key.T).T / 6**0.5
    assert scores.std(dim=1).mean() == pytest.approx(1.5, rel=1e-3)
    few, _ = whiten(memory, asked, 2)
    assert few.shape == (2, 6)
    with pytest.raises(ValueError, match="at least 2 of each, got 1 and 20"):
        whiten(memory[:1], asked, 6)


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "qwen3"])
def test_the_first_layers_alone_are_those_of_the_whole(family):
    backbone = tiny_backbone(family)
    embeds = bb.embed(backbone, random_ids(6)[None])
    with torch.no_grad():
        states = bb.body(backbone)(inputs_embeds=embeds, output_hidden_states=True).hidden_states
        found: list[torch.Tensor] = []
        handle = bb.decoder_layers(backbone)[0].register_forward_hook(
            lambda module, args, output: found.append(output[0] if isinstance(output, tuple) else output)
        )
        bb.run(backbone, embeds, first=1)
        handle.remove()
        number = len(bb.decoder_layers(backbone))
        whole = bb.run(backbone, embeds, first=number).hidden
        expected = bb.run(backbone, embeds).hidden
    torch.testing.assert_close(found[0], states[1])
    assert torch.equal(whole, expected)
    assert len(bb.decoder_layers(backbone)) == number  # the backbone is as it was
    bb.check_first_layers(backbone, 1)
    with pytest.raises(ValueError, match=f"has {number} layers: the first {number + 1}"):
        bb.run(backbone, embeds, first=number + 1)


def test_a_recall_layer_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="cannot be run alone"):
        HMTForCausalLM.from_backbone(tiny_backbone("llama"), recall_layer=9, **FIELDS)
    with pytest.raises(ValueError, match="a recall_layer makes one embedding"):
        HMTForCausalLM.from_backbone(tiny_backbone("llama"), segment_length=8, recall_layer=1)
    with pytest.raises(ValueError, match="recall_layer must be at least 1"):
        HMTForCausalLM.from_backbone(tiny_backbone("llama"), recall_layer=0, **FIELDS)


def test_adapters_above_the_recall_layer_leave_what_is_remembered():
    model = HMTForCausalLM.from_backbone(tiny_backbone("llama"), recall_layer=1, **FIELDS).eval()
    text = random_ids(24)
    before = model.read(text).state["bank"]
    model.add_lora(r=2, from_layer=1, target_modules=["q_proj", "down_proj"])
    trained = [name for name, p in model.backbone.named_parameters() if p.requires_grad]
    assert trained and all(".layers.1." in name for name in trained)
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    assert torch.equal(model.read(text).state["bank"], before)
