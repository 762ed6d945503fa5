"""Which segments are scored.

Chosen once, so that every model and every amount of history is scored on the same tokens.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Target(NamedTuple):
    """Segment `segment` (counted from 0, in segments of L tokens) of document `document`."""

    document: int
    segment: int


def choose_targets(
    lengths: Sequence[int],
    largest_history: int,
    *,
    segment_length: int,
    targets_per_document: int,
    max_targets: int,
    seed: int,
) -> list[Target]:
    """Targets with at least `largest_history` whole segments before them in their document, in document
    order.

    lengths: tokens per document. Up to `targets_per_document` of each document that is long enough, drawn
    without replacement; of these at most `max_targets`, drawn again. Depends on nothing but the arguments.
    ValueError, saying which history would fit, when no document is long enough.
    """
    if targets_per_document < 1 or max_targets < 1:
        raise ValueError("targets_per_document and max_targets must be at least 1")
    draw = random.Random(seed)
    targets = []
    for document, length in enumerate(lengths):
        places = range(largest_history, length // segment_length)
        chosen = draw.sample(places, min(targets_per_document, len(places)))
        targets += [Target(document, segment) for segment in chosen]
    if not targets:
        raise ValueError(_too_short(lengths, largest_history, segment_length))
    if len(targets) > max_targets:
        targets = draw.sample(targets, max_targets)
    return sorted(targets)


def _too_short(lengths: Sequence[int], largest_history: int, segment_length: int) -> str:
    if not lengths:
        return "there are no documents to score"
    need, longest = (largest_history + 1) * segment_length, max(lengths)
    text = (
        f"0 of {len(lengths)} documents qualify for a history of {largest_history} segments: with the scored "
        f"one that takes {need:,} tokens (segments of {segment_length}), and the longest document has "
        f"{longest:,}"
    )
    fits = longest // segment_length - 1
    if fits < 0:
        return (
            f"{text}, less than a single segment; give longer documents, or use a model with shorter segments"
        )
    enough = sum(length // segment_length > fits for length in lengths)
    return f"{text}; the largest history that fits is {fits}, with {enough} document{'s' * (enough > 1)}"


def gather_windows(
    documents: Sequence[Sequence[int]], targets: Sequence[Target], largest_history: int, segment_length: int
) -> Tensor:
    """The tokens of every target with the segments before it: int64 [targets, (largest_history + 1) * L]."""
    rows, ids, current = [], np.empty(0), -1
    for target in targets:
        if target.document != current:  # a document may have to be fetched from disk
            ids, current = np.asarray(documents[target.document]), target.document
        end = (target.segment + 1) * segment_length
        rows.append(ids[end - (largest_history + 1) * segment_length : end].astype(np.int64))
    return torch.from_numpy(np.stack(rows))
