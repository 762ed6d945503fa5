"""What a backbone in bfloat16 is run in on a CPU: by its instructions, and only what was left open."""

import pytest
import torch
from backbones import tiny_backbone

from hmt import HMTForCausalLM, load_model
from hmt import backbone as bb

# What torch says of three kinds of CPU, and what they are to get
MACHINES = {
    "amx": ({"amx_bf16": True, "avx512_bf16": True}, torch.bfloat16, "sdpa"),
    "bf16": ({"amx_bf16": False, "avx512_bf16": True}, torch.bfloat16, "eager"),
    "avx2": ({"amx_bf16": False, "avx512_bf16": False}, torch.float32, "sdpa"),
}


@pytest.fixture(params=MACHINES)
def machine(request, monkeypatch):
    able, *expected = MACHINES[request.param]
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able | {"architecture": "x86_64"})
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    return expected


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("bf16")
    tiny_backbone("llama").to(torch.bfloat16).save_pretrained(path)
    return path


def found(backbone):
    return [backbone.dtype, backbone.config._attn_implementation]


def test_what_is_left_open_is_chosen(machine, folder):
    assert found(bb.load_backbone(folder)) == machine
    model = HMTForCausalLM.from_backbone(folder, segment_length=8)
    assert found(model.backbone) == machine
    assert {p.dtype for p in model.parameters()} == {machine[0]}


def test_what_is_asked_for_stays(machine, folder):
    assert bb.load_backbone(folder, dtype=torch.bfloat16).dtype == torch.bfloat16
    asked = bb.load_backbone(folder, dtype="auto", attn_implementation="sdpa")
    assert found(asked) == [torch.bfloat16, "sdpa"]
    assert found(bb.load_backbone(folder, dtype=torch.float32)) == [torch.float32, "sdpa"]


def test_whole_checkpoints_keep_their_precision(machine, folder, tmp_path):
    model = HMTForCausalLM.from_backbone(folder, backbone_kwargs={"dtype": torch.bfloat16}, segment_length=8)
    model.save_pretrained(tmp_path, adapter_only=False)
    assert found(load_model(tmp_path).backbone) == [torch.bfloat16, machine[1]]


def test_an_accelerator_leaves_all_as_it_is(machine, folder, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert found(bb.load_backbone(folder)) == [torch.bfloat16, "sdpa"]
