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
        sizes: int64 [B, S], tokens of each row in each segment, where some are closed early, and `ended` bool
            [B, S], which are. `lengths` then counts the places up to the last token.
    """

    ids: Tensor
    lengths: Tensor
    opened: Tensor
    positions: Tensor
    segment_length: int
    longest: int
    shortest: int
    sizes: Tensor | None = None
    ended: Tensor | None = None

    @property
    def num_segments(self) -> int:
        """S, the last one counted whole."""
        return self.ids.shape[1] // self.segment_length

    def segment(self, index: int) -> tuple[Tensor, Tensor | None]:
        """Ids [B, w] and lengths [B] (0..w) of segment `index`; w is L, or less where no row fills it.

        The lengths are None where every row fills it.
        """
        start = index * self.segment_length
        if self.sizes is None:
            width = min(self.segment_length, self.longest - start)
            full = start + width <= self.shortest
        else:
            least, width = (int(size) for size in torch.stack([*self.sizes[:, index].aminmax()]))
            full = least == width
        return self.ids[:, start : start + width], None if full else self.lengths_of(index)

    def lengths_of(self, index: int) -> Tensor:
        """Tokens of each row in segment `index`, int64 [B], 0..L."""
        if self.sizes is not None:
            return self.sizes[:, index]
        return (self.lengths - index * self.segment_length).clamp(0, self.segment_length)

    def ended_in(self, index: int) -> Tensor | None:
        """Rows whose segment `index` is closed early, bool [B]; None where none is."""
        if self.ended is None or not bool(self.ended[:, index].any()):
            return None
        return self.ended[:, index]

    def tail(self) -> tuple[Tensor, Tensor]:
        """The open segment after this call: ids [B, L] (0 beyond) and lengths [B] (< L)."""
        length = self.lengths % self.segment_length
        if self.ended is not None:
            last = (self.lengths - 1).clamp(min=0) // self.segment_length
            length = torch.where(self.ended.gather(1, last[:, None])[:, 0], 0, length)
        offsets = torch.arange(self.segment_length, device=self.ids.device)
        index = ((self.lengths - length)[:, None] + offsets).clamp(max=self.ids.shape[1] - 1)
        inside = offsets < length[:, None]
        return torch.where(inside, self.ids.gather(1, index), 0), length


def make_grid(
    ids: Tensor,
    mask: Tensor | None,
    open_ids: Tensor,
    open_lengths: Tensor,
    segment_length: int,
    ends: Tensor | None = None,
) -> Grid:
    """Put the new tokens behind the open ones.

    Args:
        ids: int64 [B, T], the new tokens.
        mask: bool [B, T], True where a token is real; None means all of them.
        open_ids, open_lengths: int64 [B, L] (0 beyond the lengths) and [B], the open segment so far.
        ends: bool [B, T], tokens that a segment ends with, however short it is; None: none.
    """
    batch, width = ids.shape
    if mask is None:
        mask = torch.ones_like(ids, dtype=torch.bool)
    count = mask.long().cumsum(1)
    rank = open_lengths[:, None] + count - 1
    if ends is not None:
        ends = ends & mask
        rank = rank + _room_left(rank, ends, segment_length)
    lengths = open_lengths + mask.sum(1)
    if ends is not None and width:
        lengths = torch.maximum(torch.where(mask, rank, -1).amax(1) + 1, open_lengths)
    spans = torch.stack([lengths.amax(), lengths.amin()]).tolist() if width else [0, 0]
    longest, shortest = int(spans[0]), int(spans[1])
    num_segments = max(1, -(-longest // segment_length))
    flat = ids.new_zeros(batch, num_segments * segment_length + 1)  # one spare column takes the masked tokens
    keep = min(segment_length, flat.shape[1] - 1)
    flat[:, :keep] = open_ids[:, :keep]
    place = torch.where(mask, rank, flat.shape[1] - 1)
    flat.scatter_(1, place, ids)
    positions = torch.where(count > 0, rank, -1)
    sizes = ended = None
    if ends is not None:
        positions = torch.where(mask, rank, -1).cummax(1).values
        sizes = torch.zeros(batch, num_segments + 1, dtype=torch.long, device=ids.device)
        sizes[:, 0] = open_lengths
        sizes = sizes.scatter_add(1, place // segment_length, mask.long())[:, :-1]
        ended = torch.zeros(batch, num_segments + 1, dtype=torch.bool, device=ids.device)
        ended = ended.scatter(1, torch.where(ends, place // segment_length, num_segments), True)[:, :-1]
    return Grid(
        flat[:, :-1], lengths, open_lengths, positions, segment_length, longest, shortest, sizes, ended
    )


def _room_left(rank: Tensor, ends: Tensor, segment_length: int) -> Tensor:
    """Places that segments closed early leave empty before each token, int64 [B, T]; rank: without them."""
    empty = torch.zeros_like(rank)
    for row, column in ends.nonzero().tolist():
        place = int(rank[row, column] + empty[row, column])
        empty[row, column + 1 :] = int(empty[row, column]) + -(place + 1) % segment_length
    return empty


def shift_labels(grid: Grid, labels: Tensor, mask: Tensor | None) -> Tensor:
    """For every position of the grid, the label of the *next* token of its row, -100 where there is none.

    `labels` [B, T] is aligned with the caller's ids, as everywhere in transformers. The first new token of a
    call has no predecessor in it and is not scored. Returns int64 [B, S*L].
    """
    mask = torch.ones_like(labels, dtype=torch.bool) if mask is None else mask
    flat = labels.new_full((labels.shape[0], grid.ids.shape[1] + 1), -100)
    # of a token, the place of the one before it
    target = torch.nn.functional.pad(grid.positions, (1, 0), value=-1)[:, :-1]
    valid = mask & (target >= grid.opened[:, None])
    flat.scatter_(1, torch.where(valid, target, flat.shape[1] - 1), labels)
    return flat[:, :-1]
