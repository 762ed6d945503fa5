"""The recall loss with the other streams' memory embeddings as wrong answers, against a loop written out."""

import math

import pytest
import torch
from backbones import tiny_backbone

from hmt import HMTForCausalLM

L = 4


@pytest.fixture
def model():
    return HMTForCausalLM.from_backbone(
        tiny_backbone("llama"), segment_length=L, summary_length=2, sensory_length=1, memory_size=3
    )


def by_hand(model, ids, targets, lengths):
    """Mean of -log softmax over the earlier segments the own stream keeps and all that the others keep."""
    memories, queries = [], []
    for row, length in zip(ids, lengths, strict=True):
        state = model.initial_state(1)
        kept, asked = {}, []
        for index in range(-(-length // L)):
            segment = row[None, index * L : min(length, (index + 1) * L)]
            encoded = model.encode_one(segment, torch.tensor([segment.shape[1]]))
            asked.append((encoded @ model.recall.query.weight.T)[0])
            state = model.step(segment, state).state
            if segment.shape[1] == L:
                kept[index] = state["latest"][0] @ model.recall.key.weight.T
        last = sorted(kept)[-model.config.memory_size :]
        memories.append({index: kept[index] for index in last})
        queries.append(asked)
    scale = 1 / math.sqrt(model.recall.query.weight.shape[0])
    losses = []
    for row, asked in enumerate(queries):
        for index, query in enumerate(asked):
            target = int(targets[row, index])
            choices = {
                (stream, segment): key @ query * scale
                for stream, bank in enumerate(memories)
                for segment, key in bank.items()
                if stream != row or segment < index
            }
            if (row, target) in choices:
                scores = torch.stack(list(choices.values()))
                losses.append(torch.logsumexp(scores, 0) - choices[row, target])
    return torch.stack(losses).mean()


def test_in_batch_negatives_equal_the_loop_and_reach_both_projections(model):
    lengths = [5 * L, 3 * L + 2, 2 * L]
    ids = torch.randint(1, 90, (3, 5 * L))
    mask = torch.arange(5 * L) < torch.tensor(lengths)[:, None]
    targets = torch.tensor([[-100, 0, 0, 2, 3], [-100, 0, 1, 2, 1], [-100, 0, -100, 0, 0]])
    got = model(
        ids, attention_mask=mask.long(), labels=ids, recall_targets=targets, recall_negatives=True
    ).recall_loss
    want = by_hand(model, ids, targets, lengths)
    assert torch.allclose(got, want, atol=1e-5)
    got.backward()
    assert model.recall.query.weight.grad.abs().sum() > 0
    assert model.recall.key.weight.grad.abs().sum() > 0


def test_more_wrong_answers_never_make_the_loss_smaller(model):
    ids = torch.randint(1, 90, (4, 3 * L))
    targets = torch.tensor([[-100, 0, 1]] * 4)
    plain = model(ids, labels=ids, recall_targets=targets).recall_loss
    harder = model(ids, labels=ids, recall_targets=targets, recall_negatives=True).recall_loss
    assert harder > plain
