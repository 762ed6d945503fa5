"""Cutting padded rows of tokens into segments, and finding the way back.

A row is one stream. Its padding (anywhere) is dropped, the tokens of its open segment are put in front, and
the result is cut into segments of L. So the segmentation of a stream never depends on padding, on its
neighbours in the batch or on how the text was cut into calls.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """Tokens of a batch, left-aligned and cut into S segments of L.

    Attributes:
        ids: int64 [B, S*L]; positions at or beyond `lengths` hold 0 and mean nothing.
        lengths: int64 [B], tokens per row, those of the open segment included.
        opened: int64 [B], how many of them were there before this call.
        positions: int64 [B, T]; where the caller's column t of row b stands in the row of `ids` (for a masked
            column: the last real token before it, or -1 when there is none).
        segment_length: L.
        longest: largest entry of `lengths`, as a Python number.
        shortest: smallest entry of `lengths`, as a Python number.
    """

    ids: Tensor
    lengths: Tensor
    opened: Tensor
    positions: Tensor
    segment_length: int
    longest: int
    shortest: int

    @property
    def num_segments(self) -> int:
        """S, the last one counted whole."""
        return self.ids.shape[1] // self.segment_length

    def segment(self, index: int) -> tuple[Tensor, Tensor | None]:
        """Ids [B, w] and lengths [B] (0..w) of segment `index`; w is L, or less where no row fills it.

        The lengths are None where every row fills it.
        """
        start = index * self.segment_length
        width = min(self.segment_length, self.longest - start)
        full = start + width <= self.shortest
        return self.ids[:, start : start + width], None if full else self.lengths_of(index)

    def lengths_of(self, index: int) -> Tensor:
        """Tokens of each row in segment `index`, int64 [B], 0..L."""
        return (self.lengths - index * self.segment_length).clamp(0, self.segment_length)

    def tail(self) -> tuple[Tensor, Tensor]:
        """The open segment after this call: ids [B, L] (0 beyond) and lengths [B] (< L)."""
        length = self.lengths % self.segment_length
        offsets = torch.arange(self.segment_length, device=self.ids.device)
        index = ((self.lengths - length)[:, None] + offsets).clamp(max=self.ids.shape[1] - 1)
        inside = offsets < length[:, None]
        return torch.where(inside, self.ids.gather(1, index), 0), length


def make_grid(
    ids: Tensor, mask: Tensor | None, open_ids: Tensor, open_lengths: Tensor, segment_length: int
) -> Grid:
    """Put the new tokens behind the open ones.

    Args:
        ids: int64 [B, T], the new tokens.
        mask: bool [B, T], True where a token is real; None means all of them.
        open_ids, open_lengths: int64 [B, L] (0 beyond the lengths) and [B], the open segment so far.
    """
    batch, width = ids.shape
    if mask is None:
        mask = torch.ones_like(ids, dtype=torch.bool)
    lengths = open_lengths + mask.sum(1)
    spans = torch.stack([lengths.amax(), lengths.amin()]).tolist() if width else [0, 0]
    longest, shortest = int(spans[0]), int(spans[1])
    num_segments = max(1, -(-longest // segment_length))
    flat = ids.new_zeros(batch, num_segments * segment_length + 1)  # one spare column takes the masked tokens
    keep = min(segment_length, flat.shape[1] - 1)
    flat[:, :keep] = open_ids[:, :keep]
    count = mask.long().cumsum(1)
    rank = open_lengths[:, None] + count - 1
    flat.scatter_(1, torch.where(mask, rank, flat.shape[1] - 1), ids)
    positions = torch.where(count > 0, rank, -1)
    return Grid(flat[:, :-1], lengths, open_lengths, positions, segment_length, longest, shortest)


def shift_labels(grid: Grid, labels: Tensor, mask: Tensor | None) -> Tensor:
    """For every position of the grid, the label of the *next* token of its row, -100 where there is none.

    `labels` [B, T] is aligned with the caller's ids, as everywhere in transformers. The first new token of a
    call has no predecessor in it and is not scored. Returns int64 [B, S*L].
    """
    mask = torch.ones_like(labels, dtype=torch.bool) if mask is None else mask
    flat = labels.new_full((labels.shape[0], grid.ids.shape[1] + 1), -100)
    target = grid.positions - 1
    valid = mask & (target >= grid.opened[:, None])
    flat.scatter_(1, torch.where(valid, target, flat.shape[1] - 1), labels)
    return flat[:, :-1]
