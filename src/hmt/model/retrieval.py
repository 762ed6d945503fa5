"""What a system that retrieves says of its slots."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from hmt.memory.state import MemoryState


@dataclass(frozen=True)
class Retrieval:
    """Which segments the slots of a system hold, and how they are scored; for the recall loss and provenance.

    Attributes:
        held: segments read so far int64 [R] -> the segment in each slot int64 [R, N], -1 in an empty one.
        scores: queries [B, S, d] of every stream, and the state after them -> [B, S, B, N], against the slots
            of every stream.
    """

    held: Callable[[Tensor], Tensor]
    scores: Callable[[Tensor, MemoryState], Tensor]
