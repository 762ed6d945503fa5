"""A memory as prompt embeddings: the backbone alone writes what the model writes."""

import backbones
import pytest
import torch
from backbones import tiny_backbone
from transformers import AutoModelForCausalLM

from hmt import HMTForCausalLM, RMTForCausalLM
from hmt.systems import systems

L = 16
RECALL = {"segment_length": L, "summary_length": 4, "sensory_length": 5, "memory_size": 6}
ALONE = {"recall_query": "previous", "passages": 2, "write_prompt": "alone", "lexical": 1.0, "hops": 2}
MODELS = [
    (HMTForCausalLM, RECALL),
    (HMTForCausalLM, RECALL | {"recall_query": "memory"}),
    (HMTForCausalLM, RECALL | ALONE),
    (RMTForCausalLM, {"segment_length": L, "num_memory_tokens": 2}),
]


def random_ids(length, seed=0):
    return backbones.random_ids(length, seed)[None]


def build(kind, fields, lora=True):
    torch.manual_seed(0)
    model = kind.from_backbone(tiny_backbone("llama"), **fields)
    if lora:
        model.add_lora(r=4)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
    return model.eval()


@pytest.mark.parametrize(("kind", "fields"), MODELS)
def test_the_backbone_alone_goes_on_as_the_model(kind, fields, tmp_path):
    model = build(kind, fields)
    model.export_backbone(tmp_path / "plain")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain")
    memory, prompt = model.read(random_ids(5 * L + 3)), random_ids(6, seed=5)
    (vectors,) = model.prompt_embeddings(memory, prompt)
    ours = model.generate(prompt, past_key_values=memory, max_new_tokens=L - 9, do_sample=False)
    given = torch.ones(1, len(vectors), dtype=torch.long)
    theirs = plain.generate(
        inputs_embeds=vectors[None], attention_mask=given, max_new_tokens=L - 9, do_sample=False
    )
    assert theirs.tolist() == ours[:, 6:].tolist()
    logits = model(prompt, past_key_values=memory.copy()).logits[:, -1]
    torch.testing.assert_close(plain(inputs_embeds=vectors[None]).logits[:, -1], logits, atol=1e-4, rtol=1e-4)


def test_rows_of_different_length(tmp_path):
    model = build(HMTForCausalLM, RECALL | ALONE)
    memories = [model.read(random_ids(length, seed=length)) for length in (5 * L + 3, 2, L + 1)]
    prompt = random_ids(5, seed=9)
    together = model.prompt_embeddings(model.new_memory(3).cat(memories), prompt.repeat(3, 1))
    for memory, vectors in zip(memories, together, strict=True):
        (alone,) = model.prompt_embeddings(memory, prompt)
        torch.testing.assert_close(vectors, alone, atol=1e-5, rtol=1e-4)


def test_what_has_no_prompt(tmp_path):
    model = build(HMTForCausalLM, RECALL, lora=False)
    with pytest.raises(ValueError, match="ends a segment"):
        model.prompt_embeddings(model.new_memory(1), random_ids(L))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="no empty folder"):
        model.export_backbone(tmp_path / "taken")
    for system in systems().values():
        if system.name in ("armt", "transformer_xl"):
            other = system.model.from_backbone(tiny_backbone("llama"), segment_length=L)
            with pytest.raises(ValueError, match="has no prompt"):
                other.prompt_embeddings(other.new_memory(1), random_ids(3))
    inline = build(HMTForCausalLM, RECALL | {"recall_query": "inline"}, lora=False)
    with pytest.raises(ValueError, match="has no prompt"):
        inline.prompt_embeddings(inline.new_memory(1), random_ids(3))
