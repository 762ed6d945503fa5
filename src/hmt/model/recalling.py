"""What a stream would recall now: which segments, how much, and their tokens where they are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from hmt import backbone as bb
from hmt.memory.memory import Memory


@dataclass(frozen=True)
class Passage:
    """A remembered segment.

    Attributes:
        segment: which one of its stream, counted from 0.
        weight: of recall, 0 to 1; those of all segments sum to 1.
        ids: its tokens; None where the system keeps none.
    """

    segment: int
    weight: float
    ids: list[int] | None = None


@torch.no_grad()
def recalled(model: Any, memory: Memory, top: int) -> list[list[Passage]]:
    """See `StreamingLM.recalled`."""
    if model.retrieval is None:
        raise ValueError(
            f"a {model.config.model_type} recalls nothing: its memory has no slots to choose from"
        )
    if top < 1:
        raise ValueError(f"top is a number of passages and at least 1, got {top}")
    memory = model.memory_for(memory, memory.batch_size)
    with bb.evaluating(model):
        encoded = None
        if model.lookahead:
            if not bool((memory.open_lengths > 0).all()):
                raise ValueError(
                    "what is recalled depends on the head of the next segment: read the question first"
                )
            encoded = model.encode_one(memory.open_ids, memory.open_lengths)
        layout = model.layout(memory.state, encoded)
    if layout.recall is None:
        raise ValueError("nothing is recalled before the tokens of a segment in this configuration")
    weights = layout.recall.exp()
    held = model.retrieval.held(memory.segments_read)
    found = []
    best = weights.topk(min(top, weights.shape[1]), dim=1)
    for row, (values, slots) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
        tokens = model.remembered(memory, row, slots)
        found.append(
            [
                Passage(int(held[row, slot]), value, ids)
                for value, slot, ids in zip(values, slots, tokens, strict=True)
                if value > 0
            ]
        )
    return found
