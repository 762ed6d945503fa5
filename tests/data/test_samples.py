import datasets
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hmt.data import cut_samples, dilate, dilate_documents, interleave, interleave_documents

quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def tokenized(*lengths: int) -> datasets.Dataset:
    """Document d holds the ids 1000 * d + position, which say where they come from."""
    rows = [{"name": f"d{d}", "input_ids": [1000 * d + i for i in range(n)]} for d, n in enumerate(lengths)]
    return datasets.Dataset.from_list(rows)


def ids_of(samples) -> list[list[int]]:
    return [samples[i]["input_ids"].tolist() for i in range(len(samples))]


@quick
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=5),
    segment_length=st.integers(1, 7),
    num_segments=st.integers(1, 5),
    min_segments=st.integers(0, 5),
)
def test_samples_tile_the_documents(lengths, segment_length, num_segments, min_segments):
    min_segments = min(min_segments, num_segments)
    window, shortest = segment_length * num_segments, max(2, min_segments * segment_length)
    expected = []
    for d, length in enumerate(lengths):
        ids = [1000 * d + i for i in range(length)]
        runs = [ids[i : i + window] for i in range(0, length, window)]
        expected += [run for run in runs if len(run) >= shortest]
    cut = lambda: cut_samples(tokenized(*lengths), segment_length, num_segments, min_segments=min_segments)  # noqa: E731
    if not expected:
        with pytest.raises(ValueError, match="No document has"):
            cut()
        return
    samples = cut()
    assert ids_of(samples) == expected
    assert samples.num_tokens + samples.dropped_tokens == sum(lengths)
    assert samples.num_tokens == sum(map(len, expected))


@quick
@given(length=st.integers(2, 80), num_segments=st.integers(1, 5), stride=st.integers(1, 40))
def test_stride(length, num_segments, stride):
    window = 4 * num_segments
    runs = ids_of(cut_samples(tokenized(length), 4, num_segments, min_segments=0, stride=stride))
    for i, run in enumerate(runs):
        assert run == list(range(i * stride, min(i * stride + window, length)))
    if (
        stride <= window
    ):  # all is covered (but for a last token on its own), and only the last run ends the document
        assert runs[-1][-1] >= length - 2
        assert all(run[-1] < length - 1 for run in runs[:-1])


def test_a_sample_is_a_tensor_of_its_own_and_survives_selection():
    documents = tokenized(10, 20, 30).select([2, 0])
    samples = cut_samples(documents, 5, 2)
    assert samples[0]["input_ids"].dtype == torch.int64
    assert [run[0] for run in ids_of(samples)] == [2000, 2010, 2020, 0]
    samples[0]["input_ids"].zero_()
    assert samples[0]["input_ids"].tolist() == list(range(2000, 2010))
    assert len(list(torch.utils.data.DataLoader(samples, batch_size=2))) == 2


def test_cut_samples_mistakes():
    with pytest.raises(ValueError, match="at least 1"):
        cut_samples(tokenized(9), 0, 2)
    with pytest.raises(ValueError, match="at least 1"):
        cut_samples(tokenized(9), 2, 2, stride=0)
    with pytest.raises(ValueError, match="between 0 and num_segments"):
        cut_samples(tokenized(9), 2, 2, min_segments=3)
    with pytest.raises(ValueError, match=r"has the 20 tokens .*longest has 9"):
        cut_samples(tokenized(9), 20, 2)
    with pytest.raises(ValueError, match="tokenize_documents"):
        cut_samples(tokenized(9).remove_columns("input_ids"), 2, 2)


sequences = st.lists(st.integers(0, 99), max_size=40)


@quick
@given(a=sequences, b=sequences, chunk=st.integers(1, 9))
def test_interleave_can_be_undone(a, b, chunk):
    mixed = interleave(a, [-1 - i for i in b], chunk)
    assert [i for i in mixed if i >= 0] == a
    assert [-1 - i for i in mixed if i < 0] == b
    shared = min(len(a), len(b)) // chunk * chunk
    for start in range(0, 2 * shared, 2 * chunk):
        assert min(mixed[start : start + chunk]) >= 0 > max(mixed[start + chunk : start + 2 * chunk])


@quick
@given(ids=sequences, every=st.integers(1, 9), filler=st.lists(st.just(-1), max_size=4))
def test_dilate_can_be_undone(ids, every, filler):
    diluted = dilate(ids, every, filler)
    assert [i for i in diluted if i >= 0] == ids
    assert len(diluted) == len(ids) + len(ids) // every * len(filler)
    period = every + len(filler)
    assert all((i < 0) == (at % period >= every) for at, i in enumerate(diluted))


def test_documents_interleaved_in_pairs(caplog):
    mixed = interleave_documents(tokenized(5, 4, 3), 2)
    assert mixed["name"][:] == ["d0 + d1"]
    assert mixed["input_ids"][:] == [[0, 1, 1000, 1001, 2, 3, 1002, 1003, 4]]
    assert "left out the last of 3" in caplog.text
    with pytest.raises(ValueError, match="pairs"):
        interleave_documents(tokenized(5), 2)
    for wrong in (lambda: interleave_documents(tokenized(5, 5), 0), lambda: interleave([1], [2], 0)):
        with pytest.raises(ValueError, match="chunk_length is 0"):
            wrong()


def test_documents_diluted():
    diluted = dilate_documents(tokenized(5, 2), 2, filler_id=7, filler_length=3)
    assert diluted["input_ids"][:] == [[0, 1, 7, 7, 7, 2, 3, 7, 7, 7, 4], [1000, 1001, 7, 7, 7]]
    assert diluted["name"][:] == ["d0", "d1"]
    for wrong in (lambda: dilate_documents(tokenized(5), 2, 7, 0), lambda: dilate([1], 0, [2])):
        with pytest.raises(ValueError, match="at least 1"):
            wrong()
