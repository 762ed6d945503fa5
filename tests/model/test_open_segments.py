"""Open segments of several streams on one cache."""

import pytest
import torch
from backbones import random_ids, tiny_backbone

from hmt import HMTForCausalLM, Memory, RMTForCausalLM

L = 16
HMT = {"segment_length": L, "summary_length": 4, "sensory_length": 5, "memory_size": 4}
EXACT = HMT | {"recall_query": "previous", "passages": 2, "write_prompt": "alone", "lexical": 1.0}


def opened(model, length: int, tokens: int):
    """The memory of a stream with so many tokens of an open segment on its cache."""
    memory = model.read(random_ids(length, seed=length))
    model(random_ids(tokens, seed=1)[None], past_key_values=memory)
    return memory


MODELS = [
    (HMTForCausalLM, EXACT),
    (HMTForCausalLM, HMT | {"recall_query": "memory"}),
    (RMTForCausalLM, {"segment_length": L}),
]


@pytest.mark.parametrize(("kind", "fields"), MODELS)
@torch.no_grad()
def test_what_was_run_is_not_run_again(kind, fields, monkeypatch):
    model = kind.from_backbone(tiny_backbone("llama"), **fields).eval()
    streams = [opened(model, 3 * L, 4), opened(model, 5 * L, 2), opened(model, 2 * L, 7)]
    runs = []
    real = type(model).run_pass

    def run_pass(self, embeds, *arguments, **options):
        runs.append(embeds.shape[:2])
        return real(self, embeds, *arguments, **options)

    monkeypatch.setattr(type(model), "run_pass", run_pass)
    batch = Memory.cat([Memory.cat(streams[:2]), streams[2]])
    model(random_ids(3)[:, None], past_key_values=batch)
    assert runs == [(3, 1)]
    for row, one in enumerate(streams):
        model(random_ids(3)[None, row : row + 1], past_key_values=one)
    assert runs[1:] == [(1, 1)] * 3  # and they are as they were
    for row, one in enumerate(streams):
        assert batch.open_ids[row].tolist() == one.open_ids[0].tolist()
    again = model(random_ids(3, seed=4)[:, None], past_key_values=batch).logits[:, 0]
    for row, one in enumerate(streams):
        expected = model(random_ids(3, seed=4)[None, row : row + 1], past_key_values=one).logits[0, 0]
        torch.testing.assert_close(again[row], expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_what_cannot_share_a_cache_is_laid_out_anew():
    model = HMTForCausalLM.from_backbone(tiny_backbone("llama"), **EXACT).eval()
    memory = model.read(random_ids(3 * L))
    assert Memory.cat([memory, opened(model, 2 * L, 3)]).open is None
    inline = HMTForCausalLM.from_backbone(tiny_backbone("llama"), **HMT | {"recall_query": "inline"}).eval()
    assert Memory.cat([opened(inline, L, 2), opened(inline, L, 6)]).open is None
