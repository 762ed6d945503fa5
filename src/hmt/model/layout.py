"""The frame: what a wrapper system puts around the new tokens of a segment.

    [ prefix vectors | sensory tokens | new tokens | suffix vectors | padding ]

or, in a system that asks its memory in the middle of a segment, with what asks and what is answered inside:

    [ prefix | sensory | first tokens | ask | answer | other tokens | suffix | padding ]

The content is contiguous and the padding stands at the right end, so causal attention with default positions
0, 1, 2, ... computes every row exactly as if it were alone: no mask and no position ids are needed, and
backbones of every position scheme (rotary, learned, ALiBi) behave alike. Handing jumping positions to
transformers without a mask would be read as packed sequences and would hide the memory without a warning.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Frame:
    """Shapes: B rows, m memory vectors, k sensory tokens, d width of the embeddings.

    Attributes:
        prefix: [B, m, d] vectors read before the tokens (m may be 0).
        suffix: [B, m', d] vectors after them; the outputs there become the memory.
        sensory: int64 [B, k], right-aligned raw tokens of what was read before.
        sensory_lengths: int64 [B], how many of them are real.
        recall: log recall weights [B, N] where the system recalls, else None.
        query: [B, d], what the bank was compared with, else None.
        ask: [B, 1, d] vector that stands after the first `split` tokens; its output is the question, and
            `SegmentMemoryModel.answer` completes the frame with what comes next. None: no question.
        answer: [B, a, d] vectors after `ask`; None until they are known.
    """

    prefix: Tensor
    suffix: Tensor
    sensory: Tensor
    sensory_lengths: Tensor
    recall: Tensor | None = None
    query: Tensor | None = None
    ask: Tensor | None = None
    answer: Tensor | None = None
    split: int = 0

    def rows_before(self) -> Tensor:
        """Positions in front of the first new token, int64 [B]."""
        return self.sensory_lengths + self.prefix.shape[1]

    def rows(self, index: Tensor) -> Frame:
        """The frames of the streams named by `index` (int64 [R]), in that order."""
        picked: dict[str, Any] = {
            name: value.index_select(0, index)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **picked)


def gather_vectors(vectors: Tensor, index: Tensor) -> Tensor:
    """vectors [B, T, d] at index int64 [B, n] -> [B, n, d]."""
    return vectors.gather(1, index.unsqueeze(-1).expand(-1, -1, vectors.shape[-1]))


def assemble(
    frame: Frame, sensory: Tensor, tokens: Tensor, lengths: Tensor | None, seen: int | None = None
) -> Tensor:
    """Lay one segment out as above.

    Args:
        sensory: embedded sensory tokens [B, k, d]; tokens: embedded new tokens [B, w, d];
        lengths: real tokens per row, int64 [B] (0..w); None where every row has w.
        seen: real sensory tokens, where that is known to be the same number in every row.
    Returns: [B, m+k+w+m', d], without padding when both are known.
    """
    prefix, suffix = frame.prefix.to(tokens.dtype), frame.suffix.to(tokens.dtype)
    if seen is not None:
        sensory = sensory[:, sensory.shape[1] - seen :]
        if lengths is None:
            return torch.cat([prefix, sensory, tokens, suffix], dim=1)
    m, k, w = prefix.shape[1], sensory.shape[1], tokens.shape[1]
    source = torch.cat([prefix, sensory, tokens, suffix], dim=1)
    slot = torch.arange(source.shape[1], device=source.device)
    before = frame.rows_before()[:, None]
    missing = k + m - before  # unused slots at the left of the sensory block
    end = before + (w if lengths is None else lengths[:, None])
    index = torch.where(slot < m, slot, slot + missing)
    index = torch.where(slot >= end, slot - end + m + k + w, index)
    return gather_vectors(source, index.clamp(max=source.shape[1] - 1))


def read_out(
    hidden: Tensor, frame: Frame, width: int, lengths: Tensor | None, seen: int | None = None
) -> tuple[Tensor, Tensor]:
    """Undo `assemble` on the outputs: token outputs [B, width, d] and suffix outputs [B, m', d]."""
    size = frame.suffix.shape[1]
    if seen is not None and lengths is None:
        start = frame.prefix.shape[1] + seen
        end = start + width
        # what becomes memory outlives the segment: a slice would keep all of its outputs with it
        return hidden[:, start:end], hidden[:, end : end + size].clone()
    before = frame.rows_before()[:, None]
    tokens = torch.arange(width, device=hidden.device) + before
    suffix = (
        torch.arange(size, device=hidden.device) + before + (width if lengths is None else lengths[:, None])
    )
    last = hidden.shape[1] - 1
    return gather_vectors(hidden, tokens.clamp(max=last)), gather_vectors(hidden, suffix.clamp(max=last))


def tokens_seen(segments: Tensor, segment_length: int, most: int) -> Tensor:
    """How many of the last `most` tokens exist after `segments` (int64 [B]) full segments: int64 [B]."""
    return (segments * segment_length).clamp(max=most)


def slide(sensory: Tensor, segment: Tensor) -> Tensor:
    """The last k tokens after a full segment was read: int64 [B, k] from [B, k] and [B, L]."""
    k = sensory.shape[1]
    return torch.cat([sensory, segment], dim=1)[:, sensory.shape[1] + segment.shape[1] - k :]
