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
        read_again: whether these stand in the segment that comes next.
        text: what they say, of a recall that was given a tokenizer.
    """

    segment: int
    weight: float
    ids: list[int] | None = None
    read_again: bool = False
    text: str | None = None


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
    held = model.retrieval.held(memory.segments_read)
    there = layout.recall > torch.finfo(layout.recall.dtype).min
    # what is read again comes first, in the order of the weights, too
    first = torch.zeros_like(layout.recall)
    if layout.read_again is not None:
        spare = torch.zeros_like(first[:, :1])
        slots = torch.where(layout.read_again < 0, first.shape[1], layout.read_again)
        first = torch.cat([first, spare], dim=1).scatter(1, slots, 1.0)[:, :-1]
    order = torch.where(there, layout.recall, -torch.inf)
    order = order.argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, first.gather(1, order).argsort(dim=1, descending=True, stable=True))
    found = []
    for row, best in enumerate(order[:, :top].tolist()):
        chosen = [slot for slot in best if there[row, slot]]
        tokens = model.remembered(memory, row, chosen)
        found.append(
            [
                Passage(
                    int(held[row, slot]), float(layout.recall[row, slot].exp()), ids, bool(first[row, slot])
                )
                for slot, ids in zip(chosen, tokens, strict=True)
            ]
        )
    return found
