"""The key-value task: an untrained model guesses, a rigged one answers, and the books are kept right."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hmt import WindowForCausalLM
from hmt.data import KeyValueTask
from hmt.evaluation import RecallResult, recall_accuracy, recall_map
from hmt.memory.state import MemoryState
from hmt.model.base import StepOutput

TASK = KeyValueTask(segment_length=12, num_symbols=8, num_values=8, num_noise=4)
BANK = 6


class Oracle(WindowForCausalLM):
    """Keeps all segments raw, looks the asked key up and says its value; recalls the segment that had it."""

    def initial_state(self, batch_size):
        kept = torch.zeros(batch_size, 64, TASK.segment_length, dtype=torch.long)
        return MemoryState({"kept": kept, "segments": torch.zeros(batch_size, dtype=torch.long)})

    def step(self, segment, state, lengths=None, prepared=None, seen=None):
        batch, width = segment.shape
        hidden = torch.zeros(batch, width, TASK.vocab_size)
        recall = torch.full((batch, BANK), torch.finfo(torch.float32).min)
        for row, ids in enumerate(segment.tolist()):
            value, where = self.look_up(ids, state, row)
            hidden[row, :, value] = 1.0
            recall[row, where % BANK] = 0.0
        if width == TASK.segment_length:
            kept = state["kept"].clone()
            kept[:, int(state.segments[0])] = segment
            state = MemoryState({"kept": kept, "segments": state.segments + 1})
        return StepOutput(hidden, state, recall)

    def look_up(self, ids, state, row):
        for number, old in enumerate(state["kept"][row].tolist()):
            for at in range(len(old) - 3):
                if ids[0] == TASK.ask and old[at : at + 3] == [TASK.key, *ids[1:3]]:
                    return old[at + 3], number
        return 0, 0

    def slot_segments(self, segments):
        slot = torch.arange(BANK)
        last = segments[:, None] - 1
        return torch.where(last >= slot, last - (last - slot) % BANK, -1)


@pytest.fixture
def oracle():
    size = TASK.vocab_size
    config = LlamaConfig(
        vocab_size=size, hidden_size=size, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    model = Oracle.from_backbone(LlamaForCausalLM(config), segment_length=TASK.segment_length)
    model.backbone.lm_head.weight.data.copy_(torch.eye(size))
    return model


def test_rigged_model_is_exact(oracle):
    result = recall_accuracy(oracle, TASK, (2, 5, 7, 20), samples=12, batch_size=5)
    assert [result.accuracy(n) for n in result.segments] == [1.0] * 4
    for number in (2, 5, 7):  # before the last segment, all others fit into the bank
        assert result.points[number].evidence_weight == result.points[number].evidence_hits == 1.0
    # among 19 segments only the last 6 are in the bank; the others were pushed out
    assert 0 < result.points[20].evidence_hits < 0.8
    assert result.points[20].evidence_weight == result.points[20].evidence_hits


def test_untrained_model_guesses(make_model):
    model = make_model("hmt", segment_length=12, memory_size=16)
    result = recall_accuracy(model, TASK, (2, 4), samples=400, batch_size=100)
    assert result.chance == 1 / 8
    for number in (2, 4):
        assert result.accuracy(number) < 0.25
    # with one segment before, all weight is on it; later it is spread
    assert result.points[2].evidence_weight == pytest.approx(1.0)
    assert 0.1 < result.points[4].evidence_weight < 0.9


def test_same_samples_for_every_batch_size_and_model(make_model):
    model = make_model("hmt", segment_length=12)
    one = recall_accuracy(model, TASK, (3,), samples=30, batch_size=30, seed=4)
    assert recall_accuracy(model, TASK, (3,), samples=30, batch_size=7, seed=4).points[
        3
    ].evidence_weight == pytest.approx(one.points[3].evidence_weight, abs=1e-5)
    other = recall_accuracy(model, TASK, (3,), samples=30, batch_size=30, seed=5)
    assert other.points[3].evidence_weight != one.points[3].evidence_weight


@pytest.mark.parametrize("system", ["rmt", "window"])
def test_systems_without_recall_have_only_accuracy(make_model, system):
    model = make_model(system, segment_length=12).train()
    calls = []
    result = recall_accuracy(model, TASK, (2,), samples=3, progress=lambda *n: calls.append(n))
    assert result.points[2].evidence_weight is result.points[2].evidence_hits is None
    assert RecallResult.from_dict(result.to_dict()) == result
    assert model.training and calls[-1] == (72, 72)


def test_what_does_not_fit(make_model):
    with pytest.raises(ValueError, match="segments of 12 tokens and the model reads segments of 8"):
        recall_accuracy(make_model("hmt"), TASK, (2,))
    with pytest.raises(ValueError, match="the model knows 10"):
        recall_accuracy(make_model("hmt", vocab_size=10, segment_length=12), TASK, (2,))
    with pytest.raises(ValueError, match="numbers from 2 on"):
        recall_accuracy(make_model("hmt", segment_length=12), TASK, (1,))


def test_recall_map_is_what_forward_reports(make_model):
    model = make_model("hmt")
    ids = torch.randint(60, (1, 7 * 8 - 3))
    weights = recall_map(model, ids[0])
    recall = model(ids, output_recall=True).recall[0]
    assert weights.shape == (7, 7)
    for row in range(7):
        slots = model.retrieval.held(torch.tensor([row]))[0]
        for slot, segment in enumerate(slots.tolist()):
            if segment >= 0:
                assert weights[row, segment] == pytest.approx(recall[row, slot].item(), abs=1e-6)
        known = ~torch.isnan(torch.from_numpy(weights[row]))
        assert known.sum() == min(row, 4)  # the bank holds 4
    with pytest.raises(ValueError, match="recalls nothing"):
        recall_map(make_model("rmt"), ids)
    with pytest.raises(ValueError, match="more than one segment"):
        recall_map(model, ids[0, :8])
