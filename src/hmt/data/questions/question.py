"""One question about a document, and where the document answers it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from hmt.data.questions.text import Span


@dataclass(frozen=True)
class Question:
    """A question that a document answers.

    Args:
        question: what is asked, one line.
        answer: a few words; literally in the evidence, but for kinds that say otherwise.
        kind: how it was made ("cloze", "when", "fact", ...).
        evidence: where the document says it, one span per fact that is needed: characters of the text or,
        after
            `in_tokens`, tokens.
        document: index of the document among those that were asked about.
    """

    question: str
    answer: str
    kind: str
    evidence: tuple[Span, ...]
    document: int = 0


def in_tokens(questions: Iterable[Question], offsets: Sequence[tuple[int, int]]) -> list[Question]:
    """The same questions with their evidence in tokens.

    `offsets` are the characters [start, end) of each token of their document, as a fast tokenizer gives them
    with `return_offsets_mapping`. ValueError if a span holds no token.
    """
    starts, ends = [start for start, _ in offsets], [end for _, end in offsets]
    moved = []
    for question in questions:
        spans = []
        for span in question.evidence:
            first, last = bisect_right(ends, span.start), bisect_left(starts, span.end)
            if first >= last:
                raise ValueError(
                    f"No token lies in the characters {span.start} to {span.end}: give the offsets of the "
                    "text that the questions were made from."
                )
            spans.append(Span(first, last))
        moved.append(replace(question, evidence=tuple(spans)))
    return moved
