import sys

import pytest
import torch
from reader_oracles import LENGTH, VOCABULARY, direct, ids

from hmt.evaluation.readers import BM25Reader


@pytest.fixture
def bm25():
    pytest.importorskip("bm25s")
    return BM25Reader


def story() -> list[int]:
    """80 tokens from 1 to 19 in passages of 8; 50 is in the third, 51 in the fifth and the seventh."""
    text = [1 + token % 19 for token in ids(80, 1)]
    text[18], text[35], text[52] = 50, 51, 51
    return text


def test_retrieval_finds_the_passages_with_the_words_that_are_asked_for(backbone, tokenizer, bm25, capfd):
    text = story()
    passages = [text[start : start + 8] for start in range(0, 80, 8)]
    reader = bm25(backbone, tokenizer, 10**6, passage_tokens=8, top=1, recent=4)
    memory = reader.read(text)
    assert list(map(list, memory.passages)) == [*passages[:9], text[72:76]]
    assert reader.chosen(memory, [50], 100) == passages[2] + text[-4:]
    two = bm25(backbone, tokenizer, 10**6, passage_tokens=8, top=2, recent=4)
    assert two.chosen(memory, [51, 50, 51], 100)[-4:] == text[-4:]
    assert two.chosen(memory, [51], 100) == passages[4] + passages[6] + text[-4:]  # in text order
    assert two.chosen(memory, [55], 100) == text[-4:]  # no passage has it
    assert two.chosen(memory, [51], 13) == reader.chosen(memory, [51], 100)  # room for the best one
    assert two.chosen(memory, [51], 3) == text[-3:] and two.chosen(memory, [51], 0) == []
    goal = ids(5, 3)
    want = direct(backbone, passages[2] + text[-4:] + [50], goal)
    torch.testing.assert_close(reader.nats(memory, [50], goal), want, rtol=1e-4, atol=1e-4)
    assert "".join(capfd.readouterr()) == ""  # no progress bars


def test_equal_scores_go_to_the_earlier_passage(backbone, tokenizer, bm25):
    reader = bm25(backbone, tokenizer, 10**6, passage_tokens=4, top=1, recent=1)
    memory = reader.read([1, 2, 3, 4] + [5, 6, 7, 8] * 3 + [9])
    assert reader.chosen(memory, [5], 10) == [5, 6, 7, 8, 9]
    assert reader._ranked(memory, [5]) == [1, 2, 3]


def test_retrieval_carries_the_last_bytes_of_the_text(backbone, tokenizer, bm25):
    text = [10 + token % 50 for token in ids(80, 1)]  # words of three letters: 4 n - 1 bytes for n of them
    reader = bm25(backbone, tokenizer, 100, passage_tokens=8, recent=4)
    memory = reader.read(text)
    # 19 for the last four tokens, behind a passage of four (19) and one of eight (35); another does not fit
    assert memory.passages == (tuple(text[64:72]), tuple(text[72:76]))
    assert reader.bytes_carried == 100
    kept = [*memory.passages, memory.recent]
    assert sum(len(tokenizer.decode(part).encode()) + 4 for part in kept) <= 100
    assert len(bm25(backbone, tokenizer, 12, recent=4).read(text).recent) == 2


def test_retrieval_scores_targets_without_looking_ahead(backbone, tokenizer, bm25):
    history = torch.tensor([story(), story()[::-1]])
    target = torch.tensor([ids(LENGTH, 5), [51, *ids(LENGTH - 1, 6)]])
    options = {"passage_tokens": 8, "top": 2, "recent": 4}
    for head, reader in (
        (1, bm25(backbone, tokenizer, 10**6, **options)),
        (3, bm25(backbone, tokenizer, 10**6, query_tokens=3, **options)),
    ):
        assert reader.unscored_head == head
        got = reader.target_nats(history, target)
        assert got[:, :head].isnan().all() and not got[:, head:].isnan().any()
        for row, past, goal in zip(got, history.tolist(), target.tolist(), strict=True):
            query = goal[:3] if head == 3 else past[-LENGTH:]
            context = reader.chosen(reader.read(past), query, 1000)
            want = direct(backbone, context + goal[:head], goal[head:])
            torch.testing.assert_close(row[head:].tolist(), want, rtol=1e-4, atol=1e-4)
        for place in range(head, LENGTH):
            changed = target.clone()
            changed[:, place:] = (changed[:, place:] + 7) % VOCABULARY
            again = reader.target_nats(history, changed)
            torch.testing.assert_close(again[:, head:place], got[:, head:place], rtol=1e-4, atol=1e-4)
    nothing = reader.target_nats(history[:, :0], target)
    torch.testing.assert_close(
        nothing[0, 3:].tolist(),
        direct(backbone, target[0, :3].tolist(), target[0, 3:].tolist()),
        rtol=1e-4,
        atol=1e-4,
    )


def test_retrieval_says_what_is_wrong(backbone, tokenizer, bm25, monkeypatch):
    for field in ("budget_bytes", "passage_tokens", "top", "recent", "query_tokens"):
        with pytest.raises(ValueError, match=field):
            bm25(backbone, tokenizer, **{"budget_bytes": 9, field: 0})
    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ValueError, match=r'pip install "hmt-lm\[eval\]"'):
        bm25(backbone, tokenizer, 100)
