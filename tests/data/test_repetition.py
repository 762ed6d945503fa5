"""Repeated segments: the copy equals its source, targets say where it stood, the rest is untouched."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hmt.data import RepeatedSamples


class Samples(list):
    pass


def plain(length, number=3):
    return Samples({"input_ids": torch.arange(length) + 1000 * i} for i in range(number))


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 4), st.floats(0, 1), st.integers(0, 5))
def test_copies_and_targets(tokens, length, distance, share, seed):
    samples = plain(tokens)
    augmented = RepeatedSamples(samples, length, share, distance, seed)
    assert len(augmented) == 3
    for index in range(3):
        ids, targets = augmented[index]["input_ids"], augmented[index]["recall_targets"]
        before = samples[index]["input_ids"]
        assert torch.equal(before, torch.arange(tokens) + 1000 * index), "the samples were changed"
        assert len(targets) == -(-tokens // length)
        repeated = [t for t in targets.tolist() if t >= 0]
        assert len(set(repeated)) == len(repeated), "a segment was repeated twice"
        for number, target in enumerate(targets.tolist()):
            here = slice(number * length, (number + 1) * length)
            if target < 0:
                assert torch.equal(ids[here], before[here])
            else:
                assert target <= number - distance and targets[target] == -100
                assert torch.equal(ids[here], before[target * length : (target + 1) * length])
        again = RepeatedSamples(samples, length, share, distance, seed)[index]
        assert torch.equal(again["input_ids"], ids) and torch.equal(again["recall_targets"], targets)


def test_share():
    everything = RepeatedSamples(plain(400), 2, 1.0, 1)[0]["recall_targets"]
    assert (everything >= 0).sum() == 100, "half of them, when each repeats one that is text"
    few = RepeatedSamples(plain(4000), 2, 0.1)[0]["recall_targets"]
    assert 120 < (few >= 0).sum() < 280
    assert (RepeatedSamples(plain(400), 2, 0.0)[0]["recall_targets"] < 0).all()
    assert not torch.equal(*(RepeatedSamples(plain(400), 2, seed=s)[0]["input_ids"] for s in (0, 1)))


@pytest.mark.parametrize("settings", [{"share": 1.5}, {"min_distance": 0}, {"segment_length": 0}])
def test_bad_settings(settings):
    with pytest.raises(ValueError, match="at least 1"):
        RepeatedSamples(plain(8), **{"segment_length": 2, **settings})
