"""What commit c3fc644 saved, loaded by the library of today: checkpoints, memories and what follows.

A change that fails here costs users their files. `tests/fixtures/make.py` made them.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hmt import HMTForCausalLM, Memory, RMTForCausalLM, WindowForCausalLM, load_model
from hmt.memory.identity import check_same

from .cases import close

FIXTURES = Path(__file__).parents[1] / "fixtures" / "c3fc644"
CLASSES = {
    "hmt": HMTForCausalLM,
    "hmt-inline-write": HMTForCausalLM,
    "rmt": RMTForCausalLM,
    "memory_window": WindowForCausalLM,
    "hmt-lora": HMTForCausalLM,
}


@pytest.fixture(autouse=True)
def among_the_fixtures(monkeypatch):
    monkeypatch.chdir(FIXTURES)  # the adapter-only checkpoint names its backbone "backbone"


def saved_weights(name: str) -> dict[str, torch.Tensor]:
    """The weights in the files of a checkpoint, under the names that they have in the model."""
    folder = FIXTURES / name
    if (folder / "model.safetensors").exists():
        return load_file(folder / "model.safetensors")
    weights = load_file(folder / "memory.safetensors")
    for key, value in load_file(folder / "adapter" / "adapter_model.safetensors").items():
        # peft names neither its own wrapper nor the adapter as the model does
        key = key.removeprefix("base_model.model.").replace(".weight", ".default.weight")
        weights[f"backbone.{key}"] = value
    for key, value in load_file(FIXTURES / "backbone" / "model.safetensors").items():
        layer, _, kind = key.rpartition(".")
        adapted = f"backbone.{layer}.lora_A.default.weight" in weights
        weights[f"backbone.{layer}.base_layer.{kind}" if adapted else f"backbone.{key}"] = value
    return weights


@pytest.mark.parametrize("name", CLASSES)
def test_an_old_checkpoint_is_the_model_it_was(name):
    model = CLASSES[name].from_pretrained(name)
    assert type(model) is CLASSES[name] and not model.training
    parameters = dict(model.named_parameters())
    weights = saved_weights(name)
    assert parameters.keys() == weights.keys() and len(weights) >= 20
    for key, value in weights.items():
        assert torch.equal(parameters[key], value), key
    saved = json.loads((FIXTURES / name / "config.json").read_text())
    fields = Memory.load(f"{name}.hmt").identity.fields
    assert fields.keys() >= {"segment_length", "memory_scale"}
    for key, value in fields.items():
        assert getattr(model.config, key) == value == saved[key], key
    assert model.config.base_model_name_or_path == saved["base_model_name_or_path"]
    assert model.config.adapter_only == saved["adapter_only"] == (name == "hmt-lora")
    assert model.config.tie_word_embeddings == saved["tie_word_embeddings"] == (name == "rmt")
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == (name == "rmt")


@torch.no_grad()
@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("load", [load_model, AutoModelForCausalLM.from_pretrained])
def test_old_files_give_the_old_logits(name, load):
    model, expected = load(name), load_file(f"{name}.safetensors")
    close(model(expected["ids"][:1]).logits, expected["logits"], atol=5e-4)
    memory = Memory.load(f"{name}.hmt", model=model)  # which it belongs to: the fingerprint is the old one
    assert memory.segments_read.tolist() == [5, 1] and memory.open_lengths.tolist() == [3, 5]
    close(model(expected["question"], past_key_values=memory).logits, expected["continued"], atol=5e-4)
    assert memory.segments_read.tolist() == [6, 2] and memory.open_lengths.tolist() == [5, 7]


@torch.no_grad()
@pytest.mark.parametrize("name", CLASSES)
def test_an_old_memory_is_what_the_library_reads_today(name):
    """Not only what it is good for: the same tensors under the same names, as a new file would hold them."""
    model, expected = load_model(name), load_file(f"{name}.safetensors")
    old, new = Memory.load(f"{name}.hmt"), model.read(expected["ids"], expected["mask"])
    check_same(old.identity, new.identity, "the old file")
    assert new.identity.system == old.identity.system
    later = {name: model.config.defaults()[name] for name in new.identity.fields.keys() - old.identity.fields}
    assert new.identity.fields == old.identity.fields | later
    assert torch.equal(new.open_ids, old.open_ids) and torch.equal(new.open_lengths, old.open_lengths)
    assert new.state.tensors.keys() == old.state.tensors.keys()
    for key, tensor in new.state.tensors.items():
        # of the first stream, which has filled its bank: empty slots may hold anything
        close(tensor[0], old.state[key][0], atol=5e-4)


def test_another_checkpoint_refuses_an_old_memory():
    with pytest.raises(ValueError, match="other weights"):
        Memory.load("hmt.hmt", model=load_model("hmt-lora"))
