"""Questions to training samples of recall: the segment that answers, and others that look as if they did."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hmt.data.questions.cloze import cloze_questions
from hmt.data.questions.facts import hide_facts
from hmt.data.questions.natural import natural_questions
from hmt.data.questions.question import Question
from hmt.data.questions.rewording import reword

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NEAREST = 8  # segments, of which the hard ones are drawn


def ask_document(
    text: str,
    rng: random.Random,
    *,
    facts: int = 0,
    words: Mapping[str, Sequence[str]] | None = None,
    document: int = 0,
) -> tuple[str, list[Question]]:
    """(the text with `facts` made-up facts, questions of all kinds in the order of their evidence).

    With `words`, other words for words (`word_neighbours`), half of the cloze questions and of the natural
    ones have their words replaced, as far as the table knows others, and say so in their kind: "cloze name,
    reworded". The answer never changes.
    """
    hidden: list[Question] = []
    if facts:
        text, hidden = hide_facts(text, rng, facts, document=document)
    questions = list(hidden)
    made = {span for question in hidden for span in question.evidence}
    for question in (
        *cloze_questions(text, rng, document=document),
        *natural_questions(text, rng, document=document),
    ):
        if question.evidence[0] in made:
            continue  # a hidden fact has its own question
        if words and rng.random() < 0.5:
            other = reword(question.question, words, rng, rng.uniform(0.5, 1.0))
            if other != question.question:
                question = Question(
                    other, question.answer, f"{question.kind}, reworded", question.evidence, document
                )
        questions.append(question)
    return text, sorted(questions, key=lambda question: question.evidence)


def question_samples(
    ids: Sequence[int],
    questions: Iterable[Question],
    tokenizer: PreTrainedTokenizerBase,
    segment_length: int,
    rng: random.Random,
    *,
    hard: int = 2,
    per_segment: int | None = None,
    longest: int = 64,
) -> Iterator[dict[str, Any]]:
    """A sample for every question whose evidence lies within whole segments, in the order of the segments.

    A sample is `segment_ids` (the segment that holds the answer), `segments` (all that are needed), `hard`
    (others of the document: those that share the rarest tokens with the question, one of them at random),
    `question`, `answer`, `kind`, `document`, `segment` (its index) and `needed` (indices of all segments with
    evidence, in the order of the evidence; two-fact questions have two), all plain Python.

    Args:
        ids: tokens of the document [T].
        questions: about that document, their evidence in tokens (`in_tokens`).
        hard: other segments for every sample; fewer where the document has fewer.
        per_segment: at most so many samples of one segment, chosen at random but questions of rare kinds
        first. longest: tokens of a question; longer ones are left out.
    """
    if segment_length < 1 or hard < 0 or longest < 1:
        raise ValueError(
            f"segment_length ({segment_length}) and longest ({longest}) must be at least 1, "
            f"hard ({hard}) not negative."
        )
    count = len(ids) // segment_length
    segments = [list(ids[i * segment_length : (i + 1) * segment_length]) for i in range(count)]
    rarity = _Rarity(segments)
    chosen: dict[int, list[tuple[Question, list[int]]]] = defaultdict(list)
    kinds: dict[str, int] = defaultdict(int)
    for question in questions:
        needed = [span.start // segment_length for span in question.evidence]
        cut = any(
            (span.end - 1) // segment_length != at for span, at in zip(question.evidence, needed, strict=True)
        )
        if not cut and max(needed) < count:
            chosen[needed[-1]].append((question, needed))
            kinds[question.kind] += 1
    for segment, asked in sorted(chosen.items()):
        rng.shuffle(asked)
        asked.sort(key=lambda pair: kinds[pair[0].kind])
        for question, needed in asked[:per_segment]:
            tokens = tokenizer(question.question, add_special_tokens=False)["input_ids"]
            if len(tokens) > longest:
                continue
            yield {
                "segment_ids": segments[segment],
                "segments": [segments[at] for at in dict.fromkeys(needed)],
                "hard": [segments[other] for other in rarity.others(tokens, set(needed), hard, rng)],
                "question": question.question,
                "answer": question.answer,
                "kind": question.kind,
                "document": question.document,
                "segment": segment,
                "needed": needed,
            }


class _Rarity:
    """Which segments of a document share the rarest tokens with a question."""

    def __init__(self, segments: list[list[int]]):
        self.holders: dict[int, list[int]] = defaultdict(list)  # token -> segments that hold it
        for index, segment in enumerate(segments):
            for token in set(segment):
                self.holders[token].append(index)
        self.count = len(segments)

    def others(self, tokens: list[int], needed: set[int], number: int, rng: random.Random) -> list[int]:
        """Up to `number` segments that are not `needed`: one at random, the rest from the nearest."""
        scores = np.zeros(self.count)
        for token in set(tokens) & self.holders.keys():
            scores[self.holders[token]] += np.log(self.count / len(self.holders[token]))
        order = [int(i) for i in np.argsort(-scores, kind="stable") if int(i) not in needed]
        near = order[:_NEAREST]
        picked = rng.sample(near, min(max(number - 1, 0), len(near)))
        rest = [i for i in order if i not in picked]
        return picked + rng.sample(rest, min(number - len(picked), len(rest)))
