"""The hidden key-value task: the answer is never read, and what an oracle and a fool would score."""

from types import SimpleNamespace

import pytest

from hmt.evaluation.readers.base import Reader
from hmt.evaluation.tasks import make_task
from hmt.evaluation.tasks.base import Setting

L = 12


class Oracle(Reader):
    """Reads everything, and looks the asked-for key up; `blind`: answers the last value it saw."""

    name, bytes_carried = "oracle", None

    def __init__(self, blind=False):
        self.blind, self.asked = blind, []

    def flops_per_token(self, segment_length):
        return 1.0

    def read(self, ids):
        return list(ids)

    def _answer(self, memory, prompt):
        assert prompt[0] == 1 and prompt[-1] == 3 and len(prompt) == L - 1 and not len(memory) % L
        pairs = {(memory[i + 1], memory[i + 2]): memory[i + 3] for i, t in enumerate(memory) if t == 2}
        return list(pairs.values())[-1] if self.blind else pairs[prompt[1], prompt[2]]

    def generate(self, memory, prompt, max_new_tokens, stop=None):
        assert max_new_tokens == 1
        self.asked.append(len(memory) // L + 1)
        return [self._answer(memory, prompt)]

    def logits(self, memory, prompt, continuation): ...

    def nats(self, memory, prompt, continuation):
        (answer,) = continuation
        return [0.1 if self._answer(memory, prompt) == answer else 5.0]

    def target_nats(self, history, target):
        raise NotImplementedError


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
    blind = list(task.run(Oracle(blind=True), setting))
    right = [r for r in blind if r["scores"]["accuracy"]]
    assert len(right) < 20 and all(r["scores"]["answer"] == 0.1 for r in right)
    assert task.rescore(records[0] | {"scores": {}}) == records[0]


def test_resumes_and_limits(setting):
    task, reader = make_task("key_value", lengths=(3, 5), samples=9, limit=4), Oracle()
    assert len(list(task.run(reader, setting, {"3/0", "5/1"}))) == 6 and reader.asked == [3, 3, 3, 5, 5, 5]


def test_vocabulary(setting):
    with pytest.raises(ValueError, match="uses 84 token ids, and the tokenizer has 50"):
        list(make_task("key_value").run(Oracle(), SimpleNamespace(tokenizer=range(50), segment_length=L)))
