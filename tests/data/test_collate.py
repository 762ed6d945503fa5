import pytest
import torch

from hmt.data import SegmentCollator


def test_shapes_and_values():
    batch = SegmentCollator(pad_token_id=9)(
        [{"input_ids": [1, 2, 3]}, {"input_ids": torch.tensor([4]), "name": "x"}]
    )
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 9, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[1, 2, 3], [4, -100, -100]]
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())


def test_pad_token_inside_a_sample_stays_a_token():
    batch = SegmentCollator(pad_token_id=2)([{"input_ids": [1, 2, 3]}, {"input_ids": [2, 2]}])
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[1, 2, 3], [2, 2, -100]]


def test_own_labels_and_multiple():
    batch = SegmentCollator(pad_to_multiple_of=4)(
        [{"input_ids": [1, 2, 3, 4, 5], "labels": [-100, -100, 3, 4, 5]}]
    )
    assert batch["labels"].tolist() == [[-100, -100, 3, 4, 5, -100, -100, -100]]
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (1, 8)


def test_given_targets():
    collator = SegmentCollator(segment_length=2, recall_targets="given")
    batch = collator(
        [
            {"input_ids": [1, 2, 3, 4, 5], "recall_targets": [-100, 0, 1]},
            {"input_ids": [1, 2, 3], "recall_targets": torch.tensor([-100, 0])},
        ]
    )
    assert batch["recall_targets"].tolist() == [[-100, 0, 1], [-100, 0, -100]]
    with pytest.raises(ValueError, match="has 2 segments of 2 and 1 recall_targets"):
        collator([{"input_ids": [1, 2, 3], "recall_targets": [-100]}])
    with pytest.raises(ValueError, match="no 'recall_targets'; it has: input_ids"):
        collator([{"input_ids": [1, 2, 3]}])


def test_ngram_targets_do_not_depend_on_the_batch():
    ids = [*range(4), *range(10, 14), *range(20, 24), 30, 31, 2, 3]
    collator = SegmentCollator(segment_length=4, recall_targets="ngram", ngram_options={"min_score": 0.2})
    alone = collator([{"input_ids": ids}])["recall_targets"]
    assert alone.tolist() == [[-100, -100, -100, 0]]
    both = collator([{"input_ids": ids}, {"input_ids": list(range(19))}])["recall_targets"]
    assert both.tolist() == [[-100, -100, -100, 0, -100], [-100] * 5]


def test_mistakes():
    for options in ({"recall_targets": "given"}, {"recall_targets": "guess"}, {"pad_to_multiple_of": 0}):
        with pytest.raises(ValueError):
            SegmentCollator(**options)
    for sample in (
        {"labels": [1]},
        {"input_ids": []},
        {"input_ids": [[1]]},
        {"input_ids": [1, 2], "labels": [1]},
    ):
        with pytest.raises(ValueError):
            SegmentCollator()([sample])
