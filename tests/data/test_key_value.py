import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hmt.data import KeyValueDataset, KeyValueTask, SegmentCollator


def check(task: KeyValueTask, ids: torch.Tensor, labels: torch.Tensor, targets: torch.Tensor) -> None:
    """All that must hold in one sample, read off the tokens alone."""
    length = task.segment_length
    segments = ids.view(-1, length).tolist()
    labels = labels.view(-1, length).tolist()
    pairs = []  # (key, value) of every segment, None where it stores none
    for segment in segments:
        places = [i for i, token in enumerate(segment) if token == task.key]
        assert len(places) <= 1
        pairs.append(
            (tuple(segment[places[0] + 1 : places[0] + 3]), segment[places[0] + 3]) if places else None
        )
    stored = [pair[0] for pair in pairs if pair]
    assert len(set(stored)) == len(stored)
    assert None not in pairs[:-1] and (pairs[-1] or length < 9)

    for number, (segment, label, target) in enumerate(zip(segments, labels, targets.tolist(), strict=True)):
        last = number == len(segments) - 1
        assert (segment[0] == task.ask) == (target >= 0) == (last or (task.ask_every and number > 0))
        assert segment.count(task.ask) == segment.count(task.answer) == (target >= 0)
        if target < 0:
            assert target == -100 and label == [-100] * length
            continue
        asked, value = tuple(segment[1:3]), segment[-1]
        assert 3 <= length // 2, "the question lies in the head"
        assert target < number and pairs[target] == (asked, value)
        assert [i for i, pair in enumerate(pairs) if pair and pair[0] == asked] == [target]
        assert segment[-2] == task.answer and label == [-100] * (length - 1) + [value]
        assert task.first_value <= value < task.vocab_size
        assert all(task.first_symbol <= symbol < task.first_value for symbol in asked)


@settings(max_examples=80, deadline=None)
@given(
    length=st.integers(6, 20),
    num_symbols=st.integers(3, 6),
    num_segments=st.integers(2, 9),
    ask_every=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_invariants(length, num_symbols, num_segments, ask_every, seed):
    ask_every = ask_every and length >= 9
    task = KeyValueTask(length, num_symbols, num_values=3, num_noise=2, ask_every=ask_every)
    batch = task.sample(4, num_segments, torch.Generator().manual_seed(seed))
    assert batch["input_ids"].shape == batch["labels"].shape == (4, num_segments * length)
    assert batch["recall_targets"].shape == (4, num_segments)
    assert batch["answers"].shape == batch["evidence"].shape == (4,)
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())
    assert batch["input_ids"].min() > task.pad and batch["input_ids"].max() < task.vocab_size
    assert torch.equal(batch["answers"], batch["input_ids"][:, -1])
    assert torch.equal(batch["evidence"], batch["recall_targets"][:, -1])
    for row in range(4):
        check(task, batch["input_ids"][row], batch["labels"][row], batch["recall_targets"][row])


def test_everything_that_should_be_uniform_is():
    task = KeyValueTask(num_values=4, num_noise=1)
    batch = task.sample(4000, 4, torch.Generator().manual_seed(0))
    for values, count in ((batch["evidence"], 3), (batch["answers"] - task.first_value, 4)):
        shares = torch.bincount(values, minlength=count) / 4000
        assert (shares - 1 / count).abs().max() < 0.04
    ids = batch["input_ids"].view(4000, 4, 16)
    for number, first, places in ((0, 0, 13), (1, 3, 8)):
        starts = (ids[:, number] == task.key).int().argmax(-1) - first
        shares = torch.bincount(starts, minlength=places) / 4000
        assert len(shares) == places and (shares - 1 / places).abs().max() < 0.03
    keys = ids[:, :, 1][batch["recall_targets"] >= 0] - task.first_symbol
    assert len(keys.unique()) == task.num_symbols


def test_long_samples_and_seeds():
    task = KeyValueTask()
    batch = task.sample(2, 256, torch.Generator().manual_seed(1))
    check(task, batch["input_ids"][0], batch["labels"][0], batch["recall_targets"][0])
    same = task.sample(2, 256, torch.Generator().manual_seed(1))
    assert torch.equal(batch["input_ids"], same["input_ids"])


def test_vocabulary_and_fields():
    task = KeyValueTask(num_symbols=5, num_values=7, num_noise=3)
    assert (task.pad, task.ask, task.key, task.answer, task.first_noise) == (0, 1, 2, 3, 4)
    assert (task.first_symbol, task.first_value, task.vocab_size, task.num_keys) == (7, 12, 19, 25)
    assert list(dataclasses.asdict(task)) == [
        "segment_length",
        "num_symbols",
        "num_values",
        "num_noise",
        "ask_every",
    ]


def test_mistakes():
    for options in ({"segment_length": 5}, {"segment_length": 8}, {"num_symbols": 0}, {"num_values": 0}):
        with pytest.raises(ValueError):
            KeyValueTask(**options)
    task = KeyValueTask(num_symbols=2)
    for num_segments in (1, 5):
        with pytest.raises(ValueError, match="num_segments"):
            task.sample(1, num_segments)
        with pytest.raises(ValueError, match="num_segments"):
            KeyValueDataset(task, 3, num_segments)
    with pytest.raises(ValueError, match="num_segments"):
        KeyValueDataset(task, 3, (4, 2))


def test_dataset():
    task = KeyValueTask()
    dataset = KeyValueDataset(task, 40, (2, 5), seed=3)
    samples = list(dataset)
    assert len(samples) == len(dataset) == 40
    for i in (0, 17, 39):
        assert all(torch.equal(samples[i][name], value) for name, value in dataset[i].items())
        check(task, samples[i]["input_ids"], samples[i]["labels"], samples[i]["recall_targets"])
    assert {len(sample["recall_targets"]) for sample in samples} == {2, 3, 4, 5}
    assert len({tuple(sample["input_ids"].tolist()) for sample in samples}) == 40
    other = KeyValueDataset(task, 40, (2, 5), seed=4)
    assert not any(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(samples, other, strict=True))
    with pytest.raises(IndexError):
        dataset[40]

    batch = SegmentCollator(segment_length=16, recall_targets="given")(samples)
    assert batch["input_ids"].shape == (40, 80) and batch["recall_targets"].shape == (40, 5)
    assert (batch["labels"] >= 0).sum() == (batch["recall_targets"] >= 0).sum()
