"""Which segments are scored: chosen once, whole, with their history; and what is said where there is none."""

import numpy as np
import pytest

from hmt.evaluation.targets import Target, choose_targets, gather_windows

LENGTH = 8


def choose(lengths, history, seed=0, per_document=3, most=100):
    return choose_targets(
        lengths,
        history,
        segment_length=LENGTH,
        targets_per_document=per_document,
        max_targets=most,
        seed=seed,
    )


def test_targets_have_their_history_and_are_whole():
    lengths = [7, 60, 100, 45, 31, 32]
    for target in choose(lengths, 3):
        assert 3 <= target.segment and (target.segment + 1) * LENGTH <= lengths[target.document]
    assert {t.document for t in choose(lengths, 3)} == {1, 2, 3, 5}
    assert Target(5, 3) in choose(lengths, 3)


def test_targets_depend_on_the_seed_alone():
    lengths = [200] * 10
    assert choose(lengths, 2) == choose(lengths, 2) == sorted(choose(lengths, 2))
    assert choose(lengths, 2) != choose(lengths, 2, seed=1)
    assert len(set(choose(lengths, 2))) == 30
    assert len(choose(lengths, 2, most=4)) == 4


def test_windows_end_with_the_target():
    document = list(range(100))
    windows = gather_windows([[], document], [Target(1, 5)], 2, LENGTH)
    assert windows.tolist() == [list(range(24, 48))]
    assert gather_windows([[], np.array(document, dtype=np.int32)], [Target(1, 5)], 2, LENGTH).equal(windows)


def test_too_short_says_how_many_documents_qualify_and_what_would_fit():
    with pytest.raises(ValueError) as error:
        choose([7, 60, 100, 45, 83], 20)
    message = str(error.value)
    assert "0 of 5 documents qualify" in message and "168 tokens" in message
    assert "the largest history that fits is 11, with 1 document" in message
    assert choose([7, 60, 100, 45, 83], 11)
    with pytest.raises(ValueError, match="less than a single segment"):
        choose([3], 0)
    with pytest.raises(ValueError, match="no documents"):
        choose([], 0)
    with pytest.raises(ValueError, match="max_targets"):
        choose([100], 0, most=0)
