"""Segments taken out of a memory: it is then that of a stream that never read them."""

import pytest
import torch
from backbones import random_ids, tiny_backbone
from same_memory import same_state

from hmt import HMTForCausalLM, Memory, RMTForCausalLM

L, N = 8, 6
FIELDS = {
    "segment_length": L, "summary_length": 4, "sensory_length": 11, "memory_size": N,
    "recall_query": "previous", "passages": 2, "write_prompt": "alone", "lexical": 1.0,
}  # fmt: skip


def build(**fields):
    torch.manual_seed(0)
    return HMTForCausalLM.from_backbone(tiny_backbone("llama"), **FIELDS | fields).eval()


@pytest.fixture(scope="module", params=[{}, {"recall_layer": 1}], ids=["prompt", "layer"])
def model(request):
    return build(**request.param)


def read(model, parts):
    """Each part a segment of its own, closed early where it is short."""
    memory = model.new_memory(1)
    for part in parts:
        memory = model.flush(model.read(part, memory=memory))
    return memory


PARTS = [random_ids(n, 50 + i) for i, n in enumerate([L, 3, L, 5, L, L, 2, L, 1, L, L, 4])]


@pytest.mark.parametrize("number", [3, N, N + 1, 12])
@pytest.mark.parametrize("gone", [[0], [-1], [-2, -1], [1, -2], "all", []])
def test_it_is_the_memory_of_the_others(model, number, gone):
    parts = PARTS[:number]
    memory = read(model, parts)
    first = max(0, number - N)  # the ring holds the last N
    held = list(range(first, number))
    out = held if gone == "all" else sorted({held[index] for index in gone})
    before = {name: tensor.clone() for name, tensor in memory.state.tensors.items()}
    found = model.without(memory, out)
    expected = read(model, [parts[i] for i in held if i not in out]) if out else memory
    same_state(expected, found)
    for name, tensor in before.items():  # the memory that was given is as it was
        assert torch.equal(memory.state[name], tensor)
    # and it is read on, asked and continued as that one
    more = random_ids(2 * L + 3, 99)
    same_state(model.read(more, memory=expected), model.read(more, memory=found))
    asked = [model.flush(model.read(more, memory=one)) for one in (expected, found)]
    for one, other in zip(*(model.recalled(memory, top=9)[0] for memory in asked), strict=True):
        assert (one.segment, one.ids) == (other.segment, other.ids)
        assert one.weight == pytest.approx(other.weight, abs=1e-4)


def test_nothing_of_it_is_left_in_the_file(model, tmp_path):
    parts = PARTS[:9]
    memory = model.without(read(model, parts), [5, 8])
    memory.save(tmp_path / "m.hmt")
    data = (tmp_path / "m.hmt").read_bytes()
    every = read(model, parts[3:]).state
    for segment in range(3, 9):
        codes, vector = (every[name][0, segment - 3] for name in ("passages", "bank"))
        left = segment not in (5, 8)
        assert (codes.numpy().tobytes() in data) == left
        # a vector that was read in another batch may round otherwise
        distance = (memory.state["bank"][0] - vector).abs().amax(-1).min()
        assert (distance < 1e-4) == left
    same_state(memory, Memory.load(tmp_path / "m.hmt", model=model))


def test_an_open_segment_stays_open(model):
    parts = PARTS[:4]
    memory = model.read(random_ids(3, 7), memory=read(model, parts))
    expected = model.read(random_ids(3, 7), memory=read(model, [parts[0], *parts[2:]]))
    same_state(expected, model.without(memory, [1]))


def test_what_cannot_be_taken_out_is_refused(model):
    memory = read(model, PARTS[:9])
    for segment in (2, 9, -1):
        with pytest.raises(ValueError, match=f"does not hold segment {segment}"):
            model.without(memory, [segment])
    with pytest.raises(ValueError, match="holds 2 streams"):
        model.without(memory.select([0, 0]), [3])
    for other in (build(write_prompt="learned"), build(write_prompt="recall", lexical=0.0)):
        assert not other.forgets
        with pytest.raises(ValueError, match="cannot take segments out of a memory"):
            other.without(other.read(PARTS[0]), [0])
    torch.manual_seed(0)
    other = RMTForCausalLM.from_backbone(tiny_backbone("llama"), segment_length=L)
    assert not other.forgets
    with pytest.raises(ValueError, match="rmt as configured here cannot take segments out"):
        other.without(other.read(PARTS[0]), [0])
    assert model.forgets
