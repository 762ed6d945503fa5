"""What a system that retrieves says of its slots."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hmt.memory.state import MemoryState
from hmt.model.losses import in_batch, own_bank
from hmt.model.segments import Grid


@dataclass(frozen=True)
class Retrieval:
    """Which segments the slots of a system hold, and how they are scored; for the recall loss and provenance.

    Attributes:
        held: segments read so far int64 [R] -> the segment in each slot int64 [R, N], -1 in an empty one.
        scores: queries [B, S, d] of every stream, and the state after them -> [B, S, B, N], against the slots
            of every stream.
        head: tokens at the head of a segment that what is retrieved does not help with.
        gap: newest segments that are never retrieved.
    """

    held: Callable[[Tensor], Tensor]
    scores: Callable[[Tensor, MemoryState], Tensor]
    head: int = 0
    gap: int = 0

    def loss(
        self,
        recall: Tensor,
        queries: Tensor | None,
        targets: Tensor,
        before: MemoryState,
        after: MemoryState,
        grid: Grid,
    ) -> Tensor:
        """The recall loss of one call: a scalar.

        Args:
            recall: log weights [B, S, N] of its S segments.
            queries: [B, S, d] of its segments, for a loss over the banks of the whole batch; None for one
                over each stream's own.
            targets: int64 [B, S'], absolute segments, negative for none.
            before, after: the states around it. grid: its tokens.
        """
        now = before.segments[:, None] + torch.arange(recall.shape[1], device=recall.device)
        if queries is None:
            held = self.held(now.flatten()).view(*now.shape, -1)
            return own_bank(recall, targets, held, grid.lengths, grid.segment_length)
        scores = self.scores(queries, after)
        held = self.held(after.segments)
        return in_batch(scores, targets, held, now - self.gap, grid.lengths, grid.segment_length)
