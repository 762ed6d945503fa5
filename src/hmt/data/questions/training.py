"""Questions as training samples of a model with memory: passages, the question as a segment, the answer."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hmt.data.collate import IGNORED_LABEL
from hmt.data.recall_targets import NO_TARGET


def training_sample(
    sample: Mapping[str, Any],
    encode: Callable[[str], list[int]],
    question: Callable[[str], list[int]],
    header: Sequence[int],
    end: Sequence[int],
    rng: random.Random,
    *,
    passages: int = 2,
    shuffled: bool = True,
) -> dict[str, list[int]]:
    """What `SegmentCollator` takes, of one sample of `question_samples`.

    [passages | question | header answer end]: every passage and the question are segments of
    their own (`segment_ends`), only the answer and `end` have labels, and the recall target of the answer's
    segment is the passage that holds it.

    Args:
        encode: text to tokens. question: a question to the tokens of its segment. header: between question
            and answer. end: behind the answer.
        passages: those that are needed (a sample of two facts brings them in `segments`), filled up with
            hard ones.
        shuffled: whether these are put into another order; else the needed ones stand as they are, then the
            hard ones.
    """
    needed = [list(ids) for ids in sample.get("segments") or [sample["segment_ids"]]]
    others = [list(ids) for ids in sample["hard"]][: max(0, passages - len(needed))]
    order = list(range(len(needed) + len(others)))
    if shuffled:
        rng.shuffle(order)
    segments = [(needed + others)[place] for place in order]
    asked, answer = question(sample["question"]), encode(sample["answer"])
    ids = [token for segment in [*segments, asked, list(header), answer, list(end)] for token in segment]
    ends = [0] * len(ids)
    at = 0
    for segment in [*segments, asked]:
        at += len(segment)
        ends[at - 1] = 1
    scored = len(answer) + len(end)
    labels = [IGNORED_LABEL] * (len(ids) - scored) + ids[len(ids) - scored :]
    targets = [NO_TARGET] * (len(segments) + 1) + [order.index(len(needed) - 1)]
    return {"input_ids": ids, "labels": labels, "segment_ends": ends, "recall_targets": targets}
