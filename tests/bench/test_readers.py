"""The systems behind one face: full attention is exact, memories have read what they say."""

import pytest
import torch
from backbones import random_ids, tiny_backbone

from hmt import backbone as bb
from hmt.bench.readers import FullAttentionReader, MemoryReader, build_model, system_names
from hmt.bench.settings import Settings
from hmt.bench.training import stored_per_segment, training_step

SYSTEMS = [name for name in system_names() if name != "full"]
SETTINGS = Settings(segment_length=8, sensory_length=3, memory_size=5, lengths=(32,))


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_full_attention_in_chunks_equals_one_pass(family):
    backbone = tiny_backbone(family)
    ids = torch.stack([random_ids(29, seed) for seed in (0, 1)])
    reader = FullAttentionReader(backbone, chunk=8)
    with torch.no_grad():
        whole = bb.run(backbone, backbone.get_input_embeddings()(ids)).hidden
        want = backbone(ids, use_cache=False).logits.argmax(-1)
    pieces = torch.cat(list(reader.hidden(ids, reader.new_cache())), dim=1)
    torch.testing.assert_close(pieces, whole, atol=2e-5, rtol=1e-4)
    kept = reader.read(ids[:, :20])
    assert torch.equal(reader.token_after(kept), want[:, 19:20])
    copy = reader.copy(kept)
    assert torch.equal(reader.first_token(ids[:, 20:], copy), want[:, -1:])
    assert torch.equal(reader.next_token(ids[:, 20:21], kept), want[:, 20:21])


@pytest.mark.parametrize("name", SYSTEMS)
def test_first_token_is_that_of_generate(name):
    model = build_model(name, tiny_backbone(), SETTINGS)
    reader, ids = MemoryReader(model, chunk=2), random_ids(32)[None]
    for length in (5, 8, 24, 27):
        want = model.generate(ids[:, :length], max_new_tokens=1, do_sample=False)[:, -1:]
        assert torch.equal(reader.first_token(ids[:, :length]), want)
    kept = reader.read(ids)
    own = reader.copy(kept)
    want = model.generate(ids[:, :5], past_key_values=kept, max_new_tokens=2, do_sample=False)[:, -2:]
    first = reader.first_token(ids[:, :5], own)
    assert torch.equal(torch.cat([first, reader.next_token(first, own)], dim=1), want)


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_memory_that_has_read_much(name):
    model = build_model(name, tiny_backbone(), SETTINGS)
    reader, ids = MemoryReader(model, chunk=2), random_ids(24)[None]
    read = reader.read(ids)
    for memory, segments in ((reader.after(3, 3, ids), 3), (reader.after(20, 2, ids), 20)):
        assert memory.segments_read.tolist() == [segments]
        assert {n: t.shape for n, t in memory.state.tensors.items()} == {
            n: t.shape for n, t in read.state.tensors.items()
        }
        assert reader.next_token(ids[:, :1], memory).shape == (1, 1)


def test_what_a_step_stores_grows_with_every_segment():
    model = build_model("hmt-memory", tiny_backbone(), SETTINGS)
    grows = stored_per_segment(model, random_ids(16)[None])
    assert grows > 8 * 32 * 4 * 2  # at least the outputs of its tokens in every layer
    assert not model.training
    training_step(model, random_ids(16)[None], replay=True)
    assert model.first_prompt.weight.grad is not None and not model.training
