"""Questions made from a document: what they ask, where it answers, and that a seed fixes all of it."""

import json
import random
from dataclasses import replace

import pytest
import torch

from hmt.data import SegmentCollator
from hmt.data.collate import segment_cuts
from hmt.data.questions import (
    Question,
    ask_document,
    cloze_questions,
    hide_facts,
    in_tokens,
    natural_questions,
    question_samples,
    read_supported,
    reword,
    training_sample,
    word_neighbours,
)
from hmt.data.questions.text import Names, Span, is_content, numbers, sentences, words

TEXT = """CHAPTER I

The old harbour of Kingsbarrow was built by the merchants in 1753. Many strangers say that Kingsbarrow is
cold, but they never met Captain Marlow, who kept a tavern beside the customs house. Mr. Dunmore walked to
Kingsbarrow every Sunday, and there he met Marlow. Marlow opened the tavern with a golden key in front of
the astonished sailors.

"You will never find the treasure without the map of my grandfather," said Marlow, and he shut the door. The
fishermen counted 412 barrels of herring in the cellar that winter, and Marlow sold them to a merchant from
Norwood.

In 1760 the great lighthouse was struck by lightning. Later the merchants of Norwood were angry with Marlow,
because the barrels smelled of vinegar. The merchant Ellingham was born in Norwood. Two sailors were rescued
by the brave fishermen after the terrible storm.
"""


def spoken(text: str, span: Span) -> str:
    return " ".join(text[span.start : span.end].split())


def test_sentences_keep_abbreviations_and_leave_out_headings():
    found = [spoken(TEXT, span) for span in sentences(TEXT)]
    assert found[0] == "The old harbour of Kingsbarrow was built by the merchants in 1753."
    assert "Mr. Dunmore walked to Kingsbarrow every Sunday, and there he met Marlow." in found
    assert not any("CHAPTER" in sentence for sentence in found)
    assert len(found) == 10


def test_names_are_words_that_are_capitalised_inside_sentences():
    names = Names(TEXT)
    sentence = "Mr. Dunmore walked to Kingsbarrow's harbour, and Many Marlow saw 1753 and 12,500 men."
    assert [sentence[a:b] for a, b in names.find(sentence)] == ["Kingsbarrow"]
    assert "Marlow" in names and "Many" not in names and "The" not in names
    assert [sentence[a:b] for a, b in numbers(sentence)] == ["1753", "12,500"]


@pytest.mark.parametrize("drop", [(0.0, 0.0), (0.3, 0.6), (0.6, 0.8)])
def test_cloze_questions_ask_for_what_their_sentence_says(drop):
    made = [q for seed in range(20) for q in cloze_questions(TEXT, random.Random(seed), drop=drop)]
    assert {q.kind for q in made} == {"cloze name", "cloze number"}
    for question in made:
        assert question.answer in spoken(TEXT, question.evidence[0])
        assert question.question.count("____") == 1 and "\n" not in question.question
        assert question.answer not in question.question


def test_dropping_more_words_shares_fewer():
    def shared(drop):
        made = [q for seed in range(20) for q in cloze_questions(TEXT, random.Random(seed), drop=drop)]
        said = [set(words(spoken(TEXT, q.evidence[0]))) & set(words(q.question)) for q in made]
        return sum(is_content(word) for both in said for word in both) / len(said)

    assert shared((0.0, 0.0)) > 1.5 * shared((0.5, 0.7))


def test_natural_questions():
    made = {}
    for seed in range(20):
        for question in natural_questions(TEXT, random.Random(seed)):
            assert question.answer in spoken(TEXT, question.evidence[0])
            made[question.kind, question.answer] = question.question
    assert made["when", "1760"].split(" ", 1)[1].startswith(("which year", "was the great lighthouse struck"))
    assert made["where", "Norwood"] == "Where was the merchant Ellingham born?"
    assert made["how many", "Two"].startswith("How many sailors were rescued by the brave fishermen")
    assert made["who", "Marlow"].endswith("?") and "golden key" in made["who", "Marlow"]
    assert '"' in made["speaker", "Marlow"] and "Marlow" not in made["speaker", "Marlow"]


def test_facts_are_hidden_once_and_asked_for_in_other_words():
    text, questions = hide_facts(TEXT * 10, random.Random(1), 20, two_facts=0.5)
    for question in questions:
        assert question.answer in spoken(text, question.evidence[-1])
        assert len(question.evidence) == (2 if question.kind == "two facts" else 1)
        for span in question.evidence:
            assert text.count(text[span.start : span.end]) == 1
    assert {question.kind for question in questions} == {"fact", "two facts"}
    chained = next(question for question in questions if question.kind == "two facts")
    owner = spoken(text, chained.evidence[1])
    assert not any(word in chained.question for word in owner.split() if word[0].isupper() and len(word) > 3)
    for span in sorted((span for q in questions for span in q.evidence), reverse=True):
        text = text[: span.start - 1] + text[span.end :]
    assert text == TEXT * 10
    with pytest.raises(ValueError, match="longer text"):
        hide_facts(TEXT, random.Random(0), 50)


def test_a_seed_fixes_everything():
    options = {"facts": 3, "words": {"barrels": ["casks"], "walked": ["went"]}}
    first = ask_document(TEXT, random.Random(5), **options)
    assert first == ask_document(TEXT, random.Random(5), **options)
    assert first != ask_document(TEXT, random.Random(6), **options)


def test_neighbours_and_rewording(make_words):
    tokenizer = make_words(["ship", "vessel", "ships", "Ship", "tree", "with"])
    vectors = torch.eye(8)[[0, 1, 2, 2, 2, 2, 3, 4]]  # two specials, then the words
    vectors[3] += 0.1
    vectors[4, 7] = 0.3  # less like a ship than the vessel is
    table = word_neighbours(vectors, tokenizer)
    assert table == {"ship": ["vessel"], "vessel": ["ship", "ships"], "ships": ["vessel"]}
    assert word_neighbours(torch.eye(4), make_words(["12", "A"])) == {}
    asked = "Where is the ship with a vessel, Ship?"
    assert reword(asked, table, random.Random(0), 0.0) == asked
    other = reword(asked, {"ship": ["boat"]}, random.Random(0), 1.0)
    assert other == "Where is the boat with a vessel, Ship?"


def test_evidence_in_tokens():
    question = Question("?", "b", "cloze", (Span(2, 5), Span(6, 7)))
    offsets = [(0, 1), (1, 3), (3, 5), (5, 6), (6, 7)]
    assert in_tokens([question], offsets)[0].evidence == (Span(1, 3), Span(4, 5))
    with pytest.raises(ValueError, match="offsets"):
        in_tokens([replace(question, evidence=(Span(8, 9),))], offsets)


def test_samples(make_words):
    vocabulary = sorted(set(TEXT.split()))
    tokenizer = make_words(vocabulary)
    encoded = tokenizer(TEXT, return_offsets_mapping=True)
    ids = encoded["input_ids"]
    asked = in_tokens(natural_questions(TEXT, random.Random(0)), encoded["offset_mapping"])
    options = {"tokenizer": tokenizer, "segment_length": 30, "hard": 2}
    samples = list(question_samples(ids, asked, rng=random.Random(0), **options))
    assert samples == list(question_samples(ids, asked, rng=random.Random(0), **options))
    assert 0 < len(samples) <= len(asked)
    for sample in samples:
        start = sample["segment"] * 30
        assert sample["segment_ids"] == ids[start : start + 30] and sample["needed"] == [sample["segment"]]
        assert len(sample["hard"]) == 2 and sample["segment_ids"] not in sample["hard"]
        question = next(q for q in asked if q.question == sample["question"])
        assert start <= question.evidence[0].start < question.evidence[0].end <= start + 30
    one = list(question_samples(ids, asked, rng=random.Random(0), per_segment=1, **options))
    assert [sample["segment"] for sample in one] == sorted({sample["segment"] for sample in samples})
    with pytest.raises(ValueError, match="segment_length"):
        list(question_samples(ids, asked, tokenizer, 0, random.Random(0)))


def test_the_nearest_segments_are_the_hard_ones(make_words):
    tokenizer = make_words([f"w{i}" for i in range(60)])
    ids = list(range(2, 62))
    ids[30:33] = ids[0:3]  # the segment of tokens 30 to 39 shares three with the first
    asked = [Question("w0 w1 w2", "w5", "cloze", (Span(0, 5),))]
    seen = {
        tuple(sample["hard"][0])
        for seed in range(30)
        for sample in question_samples(ids, asked, tokenizer, 10, random.Random(seed), hard=1)
    }
    assert len(seen) == 5  # one hard segment is any other
    two = [
        sample["hard"]
        for seed in range(20)
        for sample in question_samples(ids, asked, tokenizer, 10, random.Random(seed), hard=5)
    ]
    assert all(sorted(hard) == sorted(ids[i : i + 10] for i in range(10, 60, 10)) for hard in two)


def test_sets_with_supporting_paragraphs(tmp_path, caplog):
    hotpot = {
        "question": "Who?",
        "answer": "Ada",
        "context": [["A", ["One.", " Two."]], ["B", ["Three."]]],
        "supporting_facts": [["B", 0]],
    }
    musique = {
        "question": "What?",
        "answer": "x",
        "paragraphs": [
            {"title": "T", "paragraph_text": "text ", "is_supporting": True},
            {"title": "U", "paragraph_text": "more", "is_supporting": False},
        ],
    }
    path = tmp_path / "set.jsonl"
    path.write_text("\n".join(map(json.dumps, (hotpot, {"question": "?"}, musique))))
    (text, question), (other, second) = read_supported(path)
    assert text == "A\nOne. Two.\n\nB\nThree." and spoken(text, question.evidence[0]) == "B Three."
    assert (question.question, question.answer, question.document, second.document) == ("Who?", "Ada", 0, 2)
    assert other[second.evidence[0].start : second.evidence[0].end] == "T\ntext"
    assert "1 records without paragraphs" in caplog.text

    path.write_text(json.dumps({**hotpot, "supporting_facts": []}))
    with pytest.raises(ValueError, match="set.jsonl:1: none of the 2 paragraphs"):
        list(read_supported(path))
    path.write_text(json.dumps({"context": 3, "question": "?", "answer": "!"}))
    with pytest.raises(ValueError, match="set.jsonl:1: a record needs"):
        list(read_supported(path))


def test_training_samples_bring_passages_a_question_and_an_answer():
    sample = {
        "segment_ids": [1, 2, 3],
        "segments": [[7, 8], [1, 2, 3]],
        "hard": [[4, 5, 6], [9]],
        "question": "who",
        "answer": "me",
    }
    words = {"who": [20, 21], "me": [30]}
    parts = {(1, 2, 3), (7, 8), (4, 5, 6)}
    for seed in range(6):
        asked, rng = (lambda text: [10, *words[text]]), random.Random(seed)
        made = training_sample(sample, words.get, asked, [40, 41], [50], rng, passages=3)
        cuts = [place + 1 for place, end in enumerate(made["segment_ends"]) if end]
        pieces = [tuple(made["input_ids"][a:b]) for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
        assert set(pieces[:3]) == parts and pieces[3:] == [(10, 20, 21), (40, 41, 30, 50)]
        assert made["labels"] == [-100] * (len(made["input_ids"]) - 2) + [30, 50]
        # the last one needed is where the answer stands
        assert made["recall_targets"] == [-100] * 4 + [pieces.index((1, 2, 3))]
    made = training_sample(sample, words.get, asked, [40], [50], rng, passages=3, shuffled=False)
    assert made["input_ids"][:8] == [7, 8, 1, 2, 3, 4, 5, 6] and made["recall_targets"][-1] == 1
    made = training_sample(sample, words.get, asked, [40, 41], [50], rng, passages=3)
    batch = SegmentCollator(segment_length=4, recall_targets="given")([made, made])
    assert batch["segment_ends"].shape == batch["input_ids"].shape
    assert batch["recall_targets"].shape == (2, 5)
    sample["segments"] = None
    one = training_sample(sample, words.get, words.get, [], [], random.Random(0), passages=1)
    assert one["input_ids"][:3] == [1, 2, 3] and one["recall_targets"] == [-100, -100, 0]


def test_where_segments_end():
    assert segment_cuts(10, 4) == [4, 8, 10] and segment_cuts(8, 4) == [4, 8] and segment_cuts(3, 4) == [3]
    #                         0  1  2  3  4  5  6  7  8  9
    assert segment_cuts(10, 4, [0, 0, 1, 0, 0, 0, 0, 0, 1, 0]) == [3, 7, 9, 10]
    assert segment_cuts(4, 4, [0, 0, 0, 1]) == [4]
