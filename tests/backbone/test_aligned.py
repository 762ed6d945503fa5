"""Weights of a loaded model stand at multiples of 64 bytes, wherever they stood in the file."""

import pytest
import torch
from backbones import random_ids, tiny_backbone
from safetensors.torch import load
from torch import nn
from transformers import AutoModelForCausalLM

import hmt
from hmt import HMTForCausalLM, Memory, WindowForCausalLM
from hmt.backbone.aligned import ALIGNMENT, align, align_tensor
from hmt.training.checkpoints import load_weights

FIELDS = {"segment_length": 8, "sensory_length": 2, "memory_size": 3}
IDS = random_ids(27)[None]


def misaligned(tensor: torch.Tensor) -> torch.Tensor:
    """The same values at an address that is 8 past a multiple of 64."""
    room = torch.empty(tensor.nbytes + 2 * ALIGNMENT, dtype=torch.uint8)
    start = -room.data_ptr() % ALIGNMENT + 8
    copy = room[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)
    assert copy.data_ptr() % ALIGNMENT == 8
    return copy


@torch.no_grad()
def misalign(module: nn.Module) -> nn.Module:
    for tensor in [*module.parameters(), *module.buffers()]:
        tensor.data = misaligned(tensor.data)
    return module


def shift(file) -> None:
    """Lengthen the header of a safetensors file so that its tensors stand 8 bytes past a multiple of 64."""
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    blanks = -size % ALIGNMENT  # 8 bytes for the size itself, then the header
    header = data[8 : 8 + size] + b" " * blanks
    file.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size :])
    assert load(file.read_bytes()).keys() == load(data).keys()


def all_aligned(module: nn.Module) -> bool:
    tensors = [*module.parameters(), *module.buffers()]
    return all(tensor.data_ptr() % ALIGNMENT == 0 for tensor in tensors)


def test_only_what_is_not_aligned_is_moved():
    module = misalign(nn.BatchNorm1d(24))
    module.weight.requires_grad_(False)
    module.bias.data = torch.ones(24)
    before = {name: (t, t.clone(), t.data_ptr(), t._version) for name, t in module.state_dict().items()}
    objects = {name: id(t) for name, t in [*module.named_parameters(), *module.named_buffers()]}
    assert align(module) == 3 * 24 * 4  # not the bias, nor the count of batches, which is an integer
    assert module.bias.data_ptr() == before["bias"][2]
    assert module.num_batches_tracked.data_ptr() == before["num_batches_tracked"][2]
    for name in ("weight", "running_mean", "running_var"):
        assert getattr(module, name).data_ptr() % ALIGNMENT == 0, name
    for name, (_, value, _, version) in before.items():
        now = getattr(module, name)
        assert torch.equal(now, value) and now._version == version and id(now) == objects[name], name
    assert not module.weight.requires_grad and module.bias.requires_grad
    assert align(module) == 0


def test_a_single_tensor():
    tensor = torch.randn(5, 3)
    assert align_tensor(tensor) is tensor
    moved = align_tensor(misaligned(tensor))
    assert moved.data_ptr() % ALIGNMENT == 0 and torch.equal(moved, tensor)


@pytest.mark.parametrize("how", ["one parameter", "two parameters, one memory"])
def test_tied_weights_stay_tied(how):
    module = nn.ModuleList([nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)])
    if how == "one parameter":
        module[1].weight = module[0].weight
    misalign(module)
    module[1].weight.data = module[0].weight.data
    assert align(module) == 8 * 8 * 4 and all_aligned(module)
    assert module[0].weight.data_ptr() == module[1].weight.data_ptr()
    assert (module[0].weight is module[1].weight) == (how == "one parameter")


class Quantised(nn.Parameter):
    """As the libraries make them: a parameter of a class of its own."""


def test_what_is_quantised_or_not_there_is_left_alone():
    module = nn.Module()
    module.packed = nn.Parameter(misaligned(torch.arange(32, dtype=torch.uint8)), requires_grad=False)
    module.own = Quantised(misaligned(torch.randn(32)))
    module.absent = nn.Parameter(torch.empty(32, device="meta"))
    places = [module.packed.data_ptr(), module.own.data_ptr()]
    assert align(module) == 0 and module.absent.is_meta
    assert [module.packed.data_ptr(), module.own.data_ptr()] == places


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "llama-tied", "gpt2"])
@pytest.mark.parametrize("kind", ["whole", "frozen", "lora"])
def test_loaded_weights_are_aligned_and_compute_the_same(kind, family, tmp_path):
    tiny_backbone(family).save_pretrained(tmp_path / "base")
    shift(tmp_path / "base" / "model.safetensors")
    model = HMTForCausalLM.from_backbone(tmp_path / "base", **FIELDS)
    assert all_aligned(model)
    if kind != "whole":
        model.add_lora(r=2) if kind == "lora" else model.freeze_backbone()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter += 0.1 * torch.randn(parameter.shape)
    model.eval().save_pretrained(tmp_path / "saved")
    for file in (tmp_path / "saved").rglob("*.safetensors"):
        shift(file)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad and "lora" not in name}
    for load_it in (HMTForCausalLM.from_pretrained, AutoModelForCausalLM.from_pretrained, hmt.load_model):
        loaded = load_it(tmp_path / "saved")
        assert all_aligned(loaded), load_it
        assert trainable <= {name for name, p in loaded.named_parameters() if p.requires_grad}
        assert torch.equal(loaded(IDS).logits, model(IDS).logits)
    tied = [m.get_output_embeddings().weight is m.get_input_embeddings().weight for m in (model, loaded)]
    assert tied == [family != "llama"] * 2


def test_loading_information_is_handed_on(tmp_path):
    WindowForCausalLM.from_backbone(tiny_backbone(), segment_length=8).save_pretrained(tmp_path)
    shift(tmp_path / "model.safetensors")
    model, information = WindowForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert all_aligned(model) and not information["missing_keys"]


def test_a_backbone_that_is_handed_over_is_aligned_in_place():
    backbone = misalign(tiny_backbone())
    before = {name: (id(p), p.clone()) for name, p in backbone.named_parameters()}
    model = HMTForCausalLM.from_backbone(backbone, **FIELDS)
    assert model.backbone is backbone and all_aligned(model)
    for name, parameter in backbone.named_parameters():
        assert id(parameter) == before[name][0] and torch.equal(parameter, before[name][1]), name


@pytest.mark.parametrize("kind", ["whole", "lora"])
def test_a_checkpoint_of_a_stage_lands_aligned(kind, tmp_path):
    tiny_backbone().save_pretrained(tmp_path / "base")
    model = HMTForCausalLM.from_backbone(tmp_path / "base", **FIELDS)
    if kind == "lora":
        model.add_lora(r=2)
    model.save_pretrained(tmp_path / "checkpoint-1")
    other = misalign(model)
    load_weights(other, tmp_path / "checkpoint-1")
    assert all_aligned(other)


@torch.no_grad()
def test_a_memory_file_lands_aligned(tmp_path):
    model = HMTForCausalLM.from_backbone(tiny_backbone(), **FIELDS)
    memory = model.read(IDS)
    memory.save(tmp_path / "text.hmt")
    shift(tmp_path / "text.hmt")
    loaded = Memory.load(tmp_path / "text.hmt", model=model)
    assert all(tensor.data_ptr() % ALIGNMENT == 0 for tensor in loaded.state.tensors.values())
    question = IDS[:, :11]
    want = model(question, past_key_values=memory).logits
    assert torch.equal(model(question, past_key_values=loaded).logits, want)
