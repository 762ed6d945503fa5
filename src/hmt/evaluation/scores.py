"""How right a written answer is: a fraction from 0 to 1, the best over the accepted answers.

Each function takes the prediction and the accepted answers. Question answering is scored as in SQuAD
(https://rajpurkar.github.io/SQuAD-explorer), the rest as in LongBench (https://github.com/THUDM/LongBench).
ValueError where there is no accepted answer: a mean over nothing would hide a broken data set.
"""

from __future__ import annotations

import difflib
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
ROUGE = ("rouge1", "rouge2", "rougeL")


def normalise(text: str) -> str:
    """Lower case, without ASCII punctuation, English articles and spare white space, in this order."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 if the normalised prediction is one of the normalised answers, else 0."""
    return _best(lambda answer: float(normalise(prediction) == normalise(answer)), answers)


def token_f1(prediction: str, answers: Sequence[str]) -> float:
    """F1 of the normalised words that prediction and answer share, counted with repeats.

    Where one of the two has no words left (the answer "The" is all article), it is 1 if both have none, as in
    SQuAD 2.
    """
    written = normalise(prediction).split()

    def f1(answer: str) -> float:
        wanted = normalise(answer).split()
        if not written or not wanted:
            return float(written == wanted)
        shared = sum((Counter(written) & Counter(wanted)).values())
        return 2 * shared / (len(written) + len(wanted))

    return _best(f1, answers)


def rouge(prediction: str, answers: Sequence[str], stem: bool = True) -> dict[str, float]:
    """F-measures of ROUGE-1, ROUGE-2 and ROUGE-L by the library `rouge_score`, under the names in `ROUGE`.

    Each is the best over the answers. ROUGE-L looks at the text as one line. stem: compare Porter stems, as
    option -m of ROUGE-1.5.5. Only a-z and digits make words, so texts in other alphabets score 0.
    ValueError where `rouge_score` is not installed.
    """
    _check(answers)
    scorer = _rouge_scorer(stem)
    scores = [scorer.score(answer, prediction) for answer in answers]
    return {name: max(score[name].fmeasure for score in scores) for name in ROUGE}


def classification(prediction: str, answers: Sequence[str], classes: Sequence[str]) -> float:
    """1 / (number of classes that the prediction names) if the right one is among them, else 0.

    A class whose name is a part of the right one's is not counted against it. LongBench means the same, but
    its loop skips a class right after one that it has taken out.
    """

    def one(answer: str) -> float:
        named = [name for name in dict.fromkeys(classes) if name in prediction]
        named = [name for name in named if name == answer or name not in answer]
        return 1 / len(named) if answer in named else 0.0

    return _best(one, answers)


def numbers(prediction: str, answers: Sequence[str]) -> float:
    """The share of the numbers in the prediction that are the answer's first number: 0 where there are none.

    LongBench's score of `passage_count` ("12") and of `passage_retrieval` ("Paragraph 12"). ValueError for an
    answer without a number.
    """
    written = re.findall(r"\d+", prediction)

    def share(answer: str) -> float:
        right = re.search(r"\d+", answer)
        if right is None:
            raise ValueError(f"the answer {answer!r} has no number in it, so it cannot be scored as one")
        return written.count(right[0]) / len(written) if written else 0.0

    return _best(share, answers)


def code_similarity(prediction: str, answers: Sequence[str]) -> float:
    """How alike the prediction's first line of code and the answer are: 2 x matching / all characters.

    A line with a backtick, `#` or `//` is taken for a comment and skipped, as in LongBench. Characters are
    matched by the standard library's `difflib`, so that no package more is needed; LongBench's `fuzz.ratio`
    is the same ratio in whole percents, matched by `difflib` or by edit distance, whichever is installed.
    Indentation does not count, since a saved prediction has lost it.
    """
    lines = prediction.strip("\n").split("\n")
    code = next((line for line in lines if not any(mark in line for mark in ("`", "#", "//"))), "").strip()

    def alike(answer: str) -> float:
        return difflib.SequenceMatcher(None, code, answer.strip(), autojunk=False).ratio()

    return _best(alike, answers)


def _best(score: Callable[[str], float], answers: Sequence[str]) -> float:
    _check(answers)
    return max(score(answer) for answer in answers)


def _check(answers: Sequence[str]) -> None:
    if not answers:
        raise ValueError("there is no accepted answer to compare the prediction with")


@lru_cache(maxsize=2)
def _rouge_scorer(stem: bool):
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise ValueError(
            'ROUGE needs the package rouge_score: pip install "hmt-lm[eval]", or choose a task without ROUGE'
        ) from error
    return RougeScorer(list(ROUGE), use_stemmer=stem)
