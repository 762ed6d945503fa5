import sys

import pytest

from hmt.evaluation import scores
from hmt.evaluation.scores import (
    classification,
    code_similarity,
    exact_match,
    normalise,
    numbers,
    rouge,
    token_f1,
)


def test_normalise_takes_case_punctuation_articles_and_space():
    assert normalise("  The U.S.A., an\tOwl; a theatre!\n") == "usa owl theatre"


@pytest.mark.parametrize(
    "written, answers, right",
    [
        ("the Cat.", ["cat"], 1),
        ("cats", ["cat"], 0),
        ("dog", ["cat", "A dog"], 1),
        ("", ["cat"], 0),
        ("dog cat", ["cat dog"], 0),
    ],
)
def test_exact_match(written, answers, right):
    assert exact_match(written, answers) == right


@pytest.mark.parametrize(
    "written, answers, f1",
    [
        ("big black cat", ["black cat"], 2 * (2 / 3) * 1 / (2 / 3 + 1)),
        ("cat cat dog", ["cat dog dog"], 2 / 3),  # repeats count: one cat and one dog are shared
        ("the black cat", ["dog", "cat"], 2 * 0.5 / 1.5),  # the better of two
        ("dog cat", ["cat dog"], 1),
        ("mouse", ["cat"], 0),
        ("", ["cat"], 0),
        ("cat", ["The"], 0),
        ("a", ["The"], 1),
    ],
)
def test_token_f1(written, answers, f1):
    assert token_f1(written, answers) == pytest.approx(f1)


def test_rouge_by_hand():
    found = rouge("the cat", ["the cat sat"])
    assert found == pytest.approx({"rouge1": 0.8, "rouge2": 2 / 3, "rougeL": 0.8})
    # the longest common subsequence of words, over the line end too
    assert rouge("sat\nthe cat", ["the cat sat"])["rougeL"] == pytest.approx(2 / 3)
    assert rouge("", ["the cat sat"]) == {"rouge1": 0, "rouge2": 0, "rougeL": 0}


def test_rouge_takes_the_best_answer_for_each_measure():
    # against the first: 3 of 3 words, no pair; against the second: 2 of 3 words, 1 of 2 pairs
    found = rouge("red green blue", ["blue green red", "red green car"])
    assert found == pytest.approx({"rouge1": 1, "rouge2": 0.5, "rougeL": 2 / 3})


def test_rouge_stems_only_when_asked():
    assert rouge("jumping", ["jumped"])["rouge1"] == 1
    assert rouge("jumping", ["jumped"], stem=False)["rouge1"] == 0


def test_rouge_without_its_package_says_what_to_install(monkeypatch):
    scores._rouge_scorer.cache_clear()
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(ValueError, match=r'pip install "hmt-lm\[eval\]"'):
        rouge("cat", ["cat"])


@pytest.mark.parametrize(
    "written, score",
    [
        ("Date", 1),
        ("Date or Food", 0.5),
        ("Food", 0),
        ("nothing of these", 0),
        ("date", 0),  # names are compared with case, as in LongBench
    ],
)
def test_classification(written, score):
    assert classification(written, ["Date"], ["Food", "Date", "Date of birth"]) == score


def test_classification_forgives_names_inside_the_right_name():
    classes = ["of birth", "Date", "Date of birth", "Place"]
    assert classification("Date of birth", ["Date of birth"], classes) == 1
    assert classification("Date of birth", ["Date"], classes) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    "written, score", [("It is 12.", 1), ("12 or 13", 0.5), ("112", 0), ("none", 0), ("12 12 1 2", 0.5)]
)
def test_numbers(written, score):
    assert numbers(written, ["Paragraph 12"]) == score


def test_numbers_wants_a_number_in_the_answer():
    with pytest.raises(ValueError, match="no number"):
        numbers("1", ["one"])


def test_code_similarity_takes_the_first_line_of_code():
    assert code_similarity("```python\n# next\n    x = 1\ny = 2", ["    x = 1"]) == 1
    assert code_similarity("abcd", ["bcde"]) == pytest.approx(2 * 3 / 8)
    assert code_similarity("// only a comment", ["x"]) == 0
    # longer than what difflib takes for popular characters and would leave out
    assert code_similarity("ab" * 150, ["ab" * 150 + "c"]) == pytest.approx(600 / 601)


@pytest.mark.parametrize(
    "score",
    [exact_match, token_f1, rouge, numbers, code_similarity, lambda w, a: classification(w, a, ["x"])],
)
def test_no_accepted_answer_is_an_error(score):
    with pytest.raises(ValueError, match="no accepted answer"):
        score("cat", [])
