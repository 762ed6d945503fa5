"""A memory file continues bit for bit, is refused by any other model, and survives a failing disk."""

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from backbones import random_ids, tiny_backbone
from safetensors.torch import save_file

from hmt import HMTForCausalLM, Memory, RMTForCausalLM
from hmt.memory.identity import live_fingerprint

from .cases import SYSTEMS, J, L, build, pad, ragged, same_state, shared, wrap

QUESTION = random_ids(L + 2, seed=5)


@pytest.fixture
def model():
    return shared("hmt-previous")


@pytest.fixture
def file(model, tmp_path) -> Path:
    path = tmp_path / "text.hmt"
    model.read(random_ids(5 * L + J)).save(path)
    return path


def ask(model, memory: Memory, question: torch.Tensor = QUESTION) -> torch.Tensor:
    with torch.no_grad():
        ids = question.repeat(memory.batch_size, 1)
        return model(ids, past_key_values=memory.copy()).logits


@pytest.mark.parametrize("system", SYSTEMS)
def test_round_trip(system, tmp_path):
    model = shared(system)
    memory = model.read(*pad(ragged([5 * L + J, 1, L]), "left"))
    memory.save(tmp_path / "deep" / "text.hmt")
    loaded = Memory.load(str(tmp_path / "deep" / "text.hmt"), model=model)
    same_state(loaded, memory, exact=True)
    assert loaded.info() == memory.info()
    assert torch.equal(ask(model, loaded), ask(model, memory))
    assert os.listdir(tmp_path / "deep") == ["text.hmt"]


def test_files_of_one_reading_are_the_same_bytes(model, file, tmp_path):
    """Whatever decoding left beyond the open segment; another process is tested below."""
    memory, data = model.read(random_ids(5 * L + J)), file.read_bytes()
    memory.open_ids = memory.open_ids.clone()
    memory.open_ids[0, J:] = 7
    memory.save(tmp_path / "again.hmt")
    assert (tmp_path / "again.hmt").read_bytes() == data
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    for names in (list(header), list(header["__metadata__"])):
        assert names == sorted(names)
    assert size % 8 == 0  # tensors begin where they can be mapped


def test_a_new_process_continues_bit_for_bit(model, file, tmp_path):
    model.save_pretrained(tmp_path / "model")
    script = """
import sys, torch
torch.set_num_threads(%d)
from hmt import HMTForCausalLM
from hmt import Memory
folder, file, answer, again = sys.argv[1:]
model = HMTForCausalLM.from_pretrained(folder)
memory = Memory.load(file, model=model)
question = torch.tensor([%s])
with torch.no_grad():
    torch.save((model(question, past_key_values=memory).logits, model.generate(question, max_new_tokens=12,
        past_key_values=Memory.load(file, model=model))), answer)
model.read(torch.tensor(%s)).save(again)
""" % (torch.get_num_threads(), QUESTION.tolist(), random_ids(5 * L + J).tolist())  # noqa: UP031
    paths = [str(tmp_path / name) for name in ("model", file.name, "answer.pt", "again.hmt")]
    HMTForCausalLM.from_pretrained(paths[0]).read(random_ids(5 * L + J)).save(tmp_path / "first.hmt")
    root = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-c", script, *paths], check=True, env=os.environ | {"PYTHONPATH": str(root / "src")}
    )
    logits, tokens = torch.load(paths[2])
    assert Path(paths[3]).read_bytes() == (tmp_path / "first.hmt").read_bytes()
    memory = Memory.load(file, model=model)
    assert torch.equal(logits, ask(model, memory))
    assert torch.equal(tokens, model.generate(QUESTION[None], max_new_tokens=12, past_key_values=memory))


def test_load_without_a_model_is_checked_when_it_is_used(model, file):
    memory = Memory.load(file)
    assert memory.info()["tokens_read"] == [5 * L + J]
    assert torch.equal(ask(model, memory), ask(model, Memory.load(file, model=model)))
    with pytest.raises(ValueError, match="configuration"):
        ask(shared("hmt-segment"), memory)


def test_the_fingerprint_is_of_the_weights_that_wrote_it(model, tmp_path):
    """A memory saved, then trained past: the file still names the old weights, and the new ones refuse it."""
    trained = build("hmt-previous")
    trained.read(random_ids(2 * L)).save(tmp_path / "before.hmt")
    with torch.no_grad():
        trained.recall.key.weight.mul_(1.5)
    with pytest.raises(ValueError, match="other weights"):
        Memory.load(tmp_path / "before.hmt", model=trained)


STEPS = {
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "loop": {"foreach": False},
}


@pytest.mark.parametrize("kind", STEPS)
def test_a_memory_of_weights_that_are_gone_is_not_saved(kind, model, tmp_path):
    trained = build("hmt-previous")
    memory = trained.read(random_ids(2 * L))
    optimizer = torch.optim.AdamW(trained.parameters(), lr=0.1, **STEPS[kind])
    trained(QUESTION[None], labels=QUESTION[None]).loss.backward()
    optimizer.step()
    for use in (
        lambda: memory.save(tmp_path / "text.hmt"),
        lambda: memory.copy().select([0]).save(tmp_path / "text.hmt"),
        lambda: Memory.cat([memory, memory]),
        lambda: pickle.dumps(memory),
        lambda: model.read(QUESTION, memory=memory),
    ):
        with pytest.raises(ValueError, match="trained .* after this memory was read"):
            use()
    assert memory.info()["fingerprint"] is None and "segments=[2]" in repr(memory)
    assert not (tmp_path / "text.hmt").exists()
    trained.read(QUESTION, memory=memory)  # a stream may be trained on as it is read
    trained.read(random_ids(2 * L)).save(tmp_path / "text.hmt")
    assert Memory.load(tmp_path / "text.hmt", model=trained).tokens_read.tolist() == [2 * L]


def written_past(model):
    model.backbone.model.layers[0].mlp.up_proj.weight.data.mul_(1.01)


def one_row(model):
    model.get_input_embeddings().weight.data[5, 7] += 1e-3


def swapped(model):
    for parameter in model.parameters():
        parameter.data.copy_(parameter.data * 0.99)


def assigned(model):
    state = {name: value * 0.99 for name, value in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


def replaced(model):
    for parameter in model.parameters():
        parameter.data = parameter.data * 0.99


@pytest.mark.parametrize("change", [written_past, one_row, swapped, assigned, replaced])
def test_weights_that_change_without_a_sound_are_noticed(change, tmp_path):
    model = build("hmt-previous")
    memory = model.read(random_ids(2 * L))
    memory.save(tmp_path / "before.hmt")
    change(model)
    with pytest.raises(ValueError, match="after this memory was read"):
        memory.save(tmp_path / "text.hmt")
    with pytest.raises(ValueError, match="other weights"):
        Memory.load(tmp_path / "before.hmt", model=model)
    model.read(random_ids(2 * L)).save(tmp_path / "after.hmt")
    Memory.load(tmp_path / "after.hmt", model=model)


def test_weights_that_come_back_are_the_same_ones(tmp_path):
    """An EMA swap for an evaluation, a copy, a move to another place: a memory belongs to values."""
    model = build("hmt-previous")
    memory, kept = model.read(random_ids(2 * L)), copy.deepcopy(model.state_dict())
    swapped(model)
    model.load_state_dict(kept)
    memory.save(tmp_path / "text.hmt")
    Memory.load(tmp_path / "text.hmt", model=copy.deepcopy(model))
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    memory.save(tmp_path / "text.hmt")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_is_the_same_model(dtype, file):
    Memory.load(file, model=build("hmt-previous").to(dtype))
    with pytest.raises(ValueError, match="other weights"):
        Memory.load(file, model=build("hmt-previous", seed=1).to(dtype))


@pytest.mark.parametrize("place", ["cpu", "disk"])
def test_an_offloaded_model_is_the_same_model(place, file, tmp_path):
    from accelerate import cpu_offload, disk_offload

    model = build("hmt-previous")
    if place == "cpu":
        cpu_offload(model.backbone, "cpu")
    else:
        disk_offload(model.backbone, tmp_path / "offload", "cpu")
    assert any(p.is_meta for p in model.backbone.parameters())
    Memory.load(file, model=model)
    model.read(random_ids(2 * L)).save(tmp_path / "text.hmt")
    Memory.load(tmp_path / "text.hmt", model=build("hmt-previous"))
    with pytest.raises(ValueError, match="other weights"):
        Memory.load(tmp_path / "text.hmt", model=build("hmt-previous", seed=1))


def test_another_model_that_trains_does_not_matter(tmp_path):
    model, other = build("hmt-previous"), torch.nn.Linear(2, 2)
    memory = model.read(random_ids(L))
    other(torch.ones(2)).sum().backward()
    torch.optim.SGD(other.parameters(), lr=1.0).step()
    model.train().eval().to(torch.float32)
    memory.save(tmp_path / "text.hmt")


def test_copies_do_not_carry_the_model(model):
    memory = model.read(random_ids(L))
    assert copy.deepcopy(memory).identity.owner is model
    loaded = pickle.loads(pickle.dumps(memory))
    assert torch.equal(ask(model, loaded), ask(model, memory)) and loaded.identity.system == "hmt"


ARCHITECTURES = {
    "rope": ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}, False),
    "softcap": ("gemma2", {"attn_logit_softcapping": 50.0}, False),
    "window": ("gemma2", {"sliding_window": 4}, False),
    "activation": ("llama", {"hidden_act": "gelu"}, False),
    "tokens": ("llama", {"eos_token_id": 5, "pad_token_id": 1}, True),
    "use": ("llama", {"use_cache": False, "attention_dropout": 0.1, "dtype": "float16"}, True),
    "name": ("llama", {"architectures": ["Other"], "name_or_path": "elsewhere"}, True),
}


@pytest.mark.parametrize("case", ARCHITECTURES)
def test_the_fingerprint_covers_the_architecture(case):
    """The same weights read differently are another model; the same model under another name is not."""
    family, changes, same = ARCHITECTURES[case]
    backbone = tiny_backbone(family)
    before = live_fingerprint(wrap(HMTForCausalLM, backbone, segment_length=L))
    for name, value in changes.items():
        setattr(backbone.config, name, value)
    assert live_fingerprint(wrap(HMTForCausalLM, backbone, segment_length=L)).same(before) == same


OTHERS = {
    "other weights": (lambda: build("hmt-previous", seed=1), "other weights"),
    "other backbone": (lambda: build("hmt-previous", "qwen3"), "other weights"),
    "other field": (lambda: build("hmt-previous", sensory_length=4), "sensory_length=2 .here 4."),
    "other segment length": (lambda: build("hmt-previous", segment_length=16), "segment_length"),
    "other query": (lambda: build("hmt-memory"), "recall_query"),
    "other system": (lambda: build("rmt-1"), "hmt.*rmt"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_refused_by_another_model(other, file):
    make, message = OTHERS[other]
    with pytest.raises(ValueError, match=message):
        Memory.load(file, model=make())


def test_a_live_memory_of_another_model_is_refused(model):
    memory = build("hmt-previous", seed=1).read(random_ids(L))
    for use in (
        lambda: model(QUESTION[None], past_key_values=memory),
        lambda: model.read(QUESTION, memory=memory),
        lambda: model.generate(QUESTION[None], past_key_values=memory, max_new_tokens=2),
    ):
        with pytest.raises(ValueError, match="other weights"):
            use()
    with pytest.raises(ValueError, match="different models"):
        Memory.cat([memory, model.read(random_ids(L))])


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(kept, model, file):
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ValueError, match="text.hmt"):
        Memory.load(file, model=model)


@pytest.mark.parametrize("where", ["size", "header", "bank", "counters", "end"])
def test_corrupted_bytes_are_refused(where, model, file):
    data = bytearray(file.read_bytes())
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    at = {
        "size": 2,
        "header": 20,
        "bank": 8 + size + header["state.bank"]["data_offsets"][0] + 5,
        "counters": 8 + size + header["state.segments"]["data_offsets"][0],
        "end": len(data) - 1,
    }[where]
    data[at] ^= 0x10
    file.write_bytes(data)
    with pytest.raises(ValueError, match="text.hmt"):
        Memory.load(file, model=model)


def test_what_is_not_a_memory_file_is_refused(model, tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "weights.safetensors")
    (tmp_path / "notes.txt").write_text("a plain text, long enough to have eight bytes of header")
    for name, message in [
        ("weights.safetensors", "not a memory file"),
        ("notes.txt", "not a safetensors file"),
        ("missing.hmt", "no file"),
        (".", "no file"),
    ]:
        with pytest.raises(ValueError, match=message):
            Memory.load(tmp_path / name, model=model)


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_full_disk_leaves_the_old_file(call, model, file, monkeypatch):
    old = file.read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        model.read(random_ids(3)).save(file)
    assert file.read_bytes() == old
    assert os.listdir(file.parent) == [file.name]


def test_overwriting_replaces_the_file(model, file):
    model.read(random_ids(3)).save(file)
    assert Memory.load(file, model=model).tokens_read.tolist() == [3]


def test_file_size_does_not_depend_on_what_was_read(model, tmp_path):
    sizes = []
    for length in (L, 11 * L + 3):
        model.read(random_ids(length)).save(tmp_path / "text.hmt")
        sizes.append((tmp_path / "text.hmt").stat().st_size)
    assert abs(sizes[0] - sizes[1]) < 16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cls", [HMTForCausalLM, RMTForCausalLM])
def test_half_precision_memories_stay_in_it(cls, dtype, tmp_path):
    model = wrap(cls, tiny_backbone().to(dtype), segment_length=L, sensory_length=2)
    memory = model.read(random_ids(3 * L + J))
    memory.save(tmp_path / "text.hmt")
    loaded = Memory.load(tmp_path / "text.hmt", model=model)
    same_state(loaded, memory, exact=True)
    assert {t.dtype for t in loaded.state.tensors.values() if t.is_floating_point()} == {dtype}
    assert torch.equal(ask(model, loaded), ask(model, memory))
