"""The systems as their papers write them: one stream, one segment at a time, no batch, no padding, no cache.

These loops are the oracle of the fast path, and the place to read what a system computes. They take weights
and configuration from a model of this library, and call its backbone only as `backbone(inputs_embeds=...)`.

Nothing here is detached: the loss of a long stream can be differentiated with respect to every parameter.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Reference(NamedTuple):
    """What a stream of T tokens gives.

    logits: [T, V]; row t predicts token t + 1, in the next segment too.
    loss: mean over the scored tokens, or None without labels.
    memory: what each full segment left behind, [m, d] each (empty for a system without vectors).
    recall: for each segment, the weights over the last N of `memory`, oldest first (may be empty).
    """

    logits: Tensor
    loss: Tensor | None
    memory: list[Tensor]
    recall: list[Tensor]


def segments(ids: Tensor, length: int) -> Iterator[tuple[int, Tensor]]:
    """(start, tokens) of each segment; the last one may be shorter."""
    for start in range(0, len(ids), length):
        yield start, ids[start : start + length]


def embed(model, ids: Tensor) -> Tensor:
    """Token embeddings [n, d] of int64 [n]."""
    return model.backbone.get_input_embeddings()(ids)


def run_backbone(model, parts: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Last hidden states [n, d] and logits [n, V] of the vectors [., d] in `parts`, one after the other."""
    inputs = torch.cat(parts)[None]
    output = model.backbone(inputs_embeds=inputs, output_hidden_states=True, use_cache=False)
    return output.hidden_states[-1][0], output.logits[0]


def collect(
    logits: list[Tensor], labels: Tensor | None, memory: list[Tensor], recall: list[Tensor]
) -> Reference:
    """Join the segments; score every label with the logits of the token before it (-100: not scored)."""
    joined = torch.cat(logits)
    loss = None
    if labels is not None:
        total = F.cross_entropy(joined[:-1], labels[1:], ignore_index=-100, reduction="sum")
        loss = total / max(1, int((labels[1:] != -100).sum()))
    return Reference(joined, loss, memory, recall)
