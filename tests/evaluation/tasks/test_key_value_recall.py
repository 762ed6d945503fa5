"""The hidden key-value task: the answer is never read, and what an oracle, a fool and a real model score."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hmt.evaluation import MemoryReader, recall_map
from hmt.evaluation.readers.base import Reader
from hmt.evaluation.tasks import make_task
from hmt.evaluation.tasks.base import Setting

L, VOCABULARY, BANK = 12, 84, 6


class Oracle(Reader):
    """Reads everything, looks the asked-for key up, and recalls the segment that has it.

    `blind`: answers the last value it saw. What is older than the last 6 segments it cannot recall.
    """

    name, bytes_carried = "oracle", None

    def __init__(self, blind=False):
        self.blind, self.asked = blind, []

    def flops_per_token(self, segment_length):
        return 1.0

    def read(self, ids):
        return list(ids)

    def _pairs(self, memory, prompt):
        assert prompt[0] == 1 and prompt[-1] == 3 and len(prompt) == L - 1 and not len(memory) % L
        return {
            (memory[i + 1], memory[i + 2]): (memory[i + 3], i // L) for i, t in enumerate(memory) if t == 2
        }

    def logits(self, memory, prompt, continuation):
        assert len(continuation) == 1
        self.asked.append(len(memory) // L + 1)
        pairs = self._pairs(memory, prompt)
        said = list(pairs.values())[-1] if self.blind else pairs[prompt[1], prompt[2]]
        logits = torch.zeros(1, VOCABULARY)
        logits[0, said[0]] = 9.0
        yield logits, torch.tensor(continuation)

    def recalled(self, memory, prompt):
        if self.blind:
            return None
        where, length = self._pairs(memory, prompt)[prompt[1], prompt[2]][1], len(memory) // L
        return [float(n == where and n >= length - BANK) for n in range(length)]

    def generate(self, memory, prompt, max_new_tokens, stop=None, **settings): ...
    def target_nats(self, history, target): ...


@pytest.fixture
def setting():
    return Setting(range(200), L)


def test_oracle_and_fool(setting):
    task = make_task("key_value", lengths=(3, 40, 1000), samples=20)
    records = list(task.run(Oracle(), setting))
    assert [r["scores"]["accuracy"] for r in records] == [1.0] * 60
    assert {r["facts"]["segments"] for r in records} == {3, 40, 1000}
    assert {r["facts"]["depth"] for r in records} <= {0.0, 0.25, 0.5, 0.75, 1.0}
    for record in records:
        length = record["facts"]["segments"]
        assert abs(record["facts"]["depth"] - record["evidence"] / (length - 2)) <= 0.125
        kept = float(record["evidence"] >= length - 1 - BANK)
        assert record["scores"]["evidence"] == record["scores"]["evidence_first"] == kept
    blind = list(task.run(Oracle(blind=True), setting))
    right = [r for r in blind if r["scores"]["accuracy"]]
    assert len(right) < 20 and all(r["scores"]["answer"] < 0.1 for r in right)
    assert all(r["scores"]["answer"] > 5 for r in blind if not r["scores"]["accuracy"])
    assert all(r["scores"]["evidence"] is None for r in blind) and task.extras(blind) == {}
    assert task.rescore(records[0] | {"scores": {}}) == records[0]
    assert task.chance() == {"accuracy": 1 / 32}


def test_the_map_shows_where_it_looked_for_what(setting):
    task = make_task("key_value", lengths=(3, 5), samples=40)
    found = task.extras(list(task.run(Oracle(), setting)))["recall_map"]
    assert found["segments"] == 4
    np.testing.assert_array_equal(found["rows"], np.eye(4))
    long = task.extras(list(make_task("key_value", lengths=(41,), samples=5).run(Oracle(), setting)))
    rows = long["recall_map"]["rows"]
    assert len(rows) == 16 and all(len(row) == 16 for row in rows) and [None] * 16 in rows


@pytest.fixture
def model(make_model):
    return make_model("hmt", vocab_size=VOCABULARY, segment_length=L, memory_size=16)


def test_an_untrained_model_guesses(model, setting):
    task = make_task("key_value", lengths=(2, 4), samples=150, batch_size=50)
    records = list(task.run(MemoryReader(model), setting))
    assert np.mean([r["scores"]["accuracy"] for r in records]) < 0.15
    # with one segment before, all weight is on it; later it is spread
    weight = {n: [r["scores"]["evidence"] for r in records if r["facts"]["segments"] == n] for n in (2, 4)}
    assert weight[2] == pytest.approx([1.0] * 150, abs=1e-4)
    assert 0.1 < np.mean(weight[4]) < 0.9


def test_numbers_are_those_of_one_pass_over_the_sample(model, setting):
    from hmt.data import KeyValueDataset

    task = make_task("key_value", lengths=(5,), samples=6, batch_size=4)
    records = {r["id"]: r for r in task.run(MemoryReader(model), setting)}
    samples = KeyValueDataset(task.task(L), 6, 5, seed=task.seed)
    for number in range(6):
        record, ids = records[f"5/{number}"], samples[number]["input_ids"]
        with torch.no_grad():
            out = model(ids[None, :-1], output_recall=True)
        scores = out.logits[0, -1].float()
        assert record["answer"] == int(ids[-1]) and record["generated"] == [int(scores.argmax())]
        assert record["nats"] == pytest.approx(-float(scores.log_softmax(-1)[ids[-1]]), abs=1e-4)
        slots = model.retrieval.held(torch.tensor([4]))[0].tolist()
        want = [float(out.recall[0, -1, slots.index(segment)]) for segment in range(4)]
        assert record["recall"] == pytest.approx(want, abs=1e-4)


def test_a_text_that_recall_has_forgotten_has_no_weight(make_model, setting):
    model = make_model("hmt", vocab_size=VOCABULARY, segment_length=L, memory_size=2)
    (record, *_) = make_task("key_value", lengths=(6,), samples=1).run(MemoryReader(model), setting)
    assert record["recall"][:3] == [0.0] * 3 and sum(record["recall"]) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("system", ["rmt", "window"])
def test_systems_without_recall_have_only_accuracy(make_model, setting, system):
    model = make_model(system, vocab_size=VOCABULARY, segment_length=L).train()
    records = list(make_task("key_value", lengths=(2,), samples=3).run(MemoryReader(model), setting))
    assert model.training and all(r["scores"]["evidence"] is None and "recall" not in r for r in records)


def test_resumes_and_limits(setting):
    task, reader = make_task("key_value", lengths=(3, 5), samples=9, limit=4, batch_size=2), Oracle()
    told = []
    rest = list(task.run(reader, setting, {"3/0", "5/1"}, lambda *counts: told.append(counts)))
    assert len(rest) == 6 and reader.asked == [3, 3, 3, 5, 5, 5]
    assert told[0] == (2, 8) and told[-1] == (8, 8)


def test_what_does_not_fit(make_model, setting):
    with pytest.raises(ValueError, match="uses 84 token ids, and the tokenizer has 50"):
        list(make_task("key_value").run(Oracle(), SimpleNamespace(tokenizer=range(50), segment_length=L)))
    for settings in ({"lengths": (1,)}, {"lengths": ()}, {"samples": 0}):
        with pytest.raises(ValueError, match="2 or more"):
            make_task("key_value", **settings)


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
