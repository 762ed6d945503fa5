"""What a segment looks like: the parts that stand around its tokens, from left to right.

    [ Embeds(P) | Ids(sensory) | Tokens() | Embeds(P, keep="write") ]

or, in a system that asks its memory in the middle of a segment:

    [ Ids(sensory) | Tokens(until=j) | Probe(T, then=...) ]
    and then [ Embeds(P) | Tokens() | Embeds(P, keep="write") ]

A layout is the only source of lengths: passes, decoding, caches and FLOPs follow from it. Parts stand side by
side without gaps and positions are 0, 1, 2, ...: with causal attention every row is then computed as if it
were alone, and backbones of every position scheme (rotary, learned, ALiBi) behave alike. Handing jumping
positions to transformers without a mask would be read as packed sequences and would hide the memory without
a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from hmt.memory.state import MemoryState


@dataclass(frozen=True)
class Embeds:
    """Vectors [B, m, d] as they are.

    keep: the name under which the outputs here are handed to `update` (`SegmentRecord.kept`), or None.
    """

    vectors: Tensor
    keep: str | None = None


@dataclass(frozen=True)
class Ids:
    """Raw tokens that are read again: int64 [B, k], right-aligned.

    lengths: how many of them are real, int64 [B], or a Python number where it is the same in every row: only
    then is the row laid out without padding.
    """

    ids: Tensor
    lengths: Tensor | int

    @property
    def width(self) -> int:
        """Places that are laid out for them: those that can be real in a row."""
        return self.lengths if isinstance(self.lengths, int) else self.ids.shape[1]


@dataclass(frozen=True)
class Tokens:
    """The new tokens of the segment, from where the last such part ended to position `until` (None: L)."""

    until: int | None = None


@dataclass(frozen=True)
class Probe:
    """Vectors [B, m, d] whose outputs decide what comes next.

    then: called with the state, the output at the last of them [B, d] and `reached` bool [B] (False in rows
        whose segment ends before it); returns the rest of the layout. It must hold no rows of its own: those
        of a batch may be reordered before it is called.
    """

    vectors: Tensor
    then: Callable[[MemoryState, Tensor, Tensor], Layout]


Part: TypeAlias = Embeds | Ids | Tokens | Probe


@dataclass(frozen=True)
class Layout:
    """The parts of one segment, for a batch of B rows.

    Attributes:
        parts: from left to right; the last `Tokens` has no `until`, or a `Probe` stands at the end and gives
            the rest.
        recall: log recall weights [B, N] where the system recalls, else None.
        query: [B, d], what the bank was compared with, else None.
        read_again: slots whose tokens are among the parts, int64 [B, p], -1 for none, else None.
    """

    parts: Sequence[Part]
    recall: Tensor | None = None
    query: Tensor | None = None
    read_again: Tensor | None = None

    @property
    def staged(self) -> bool:
        """Whether something stands inside the tokens: rows must then be equally far in theirs."""
        return any(isinstance(part, Probe) or getattr(part, "until", None) is not None for part in self.parts)

    @property
    def padded(self) -> bool:
        """Whether rows may be of different length."""
        return any(isinstance(part, Ids) and not isinstance(part.lengths, int) for part in self.parts)

    def known(self) -> Layout:
        """The same, with lengths as Python numbers where all rows have the same. Asks the device."""
        asked = [
            part.lengths for part in self.parts if isinstance(part, Ids) and isinstance(part.lengths, Tensor)
        ]
        if not asked:
            return self
        rows = iter(torch.stack(asked).tolist())
        parts: list[Part] = []
        for part in self.parts:
            if isinstance(part, Ids) and isinstance(part.lengths, Tensor):
                row = next(rows)
                part = Ids(part.ids, row[0]) if min(row) == max(row) else part
            parts.append(part)
        return replace(self, parts=parts)

    def check(self, segment_length: int, batch: int, start: int = 0) -> None:
        """ValueError unless the parts are a whole segment, from token `start` on, without gap or overlap."""
        names: set[str] = set()
        at, last = start, len(self.parts) - 1
        for place, part in enumerate(self.parts):
            if isinstance(part, Tokens):
                until = segment_length if part.until is None else part.until
                if not at <= until <= segment_length:
                    raise ValueError(
                        f"a layout reads tokens {at} to {until} of a segment of {segment_length}: stretches "
                        "must follow one another and end within the segment"
                    )
                at = until
                continue
            rows = part.ids.shape[0] if isinstance(part, Ids) else part.vectors.shape[0]
            if rows != batch:
                raise ValueError(f"{type(part).__name__} in a layout has {rows} rows, the batch {batch}")
            if isinstance(part, Ids) and isinstance(part.lengths, int):
                if not 0 <= part.lengths <= part.ids.shape[1]:
                    raise ValueError(f"Ids of {part.ids.shape[1]} tokens cannot hold {part.lengths}")
            if isinstance(part, Embeds) and part.keep is not None:
                if part.keep in names:
                    raise ValueError(f"two parts of a layout keep {part.keep!r}; names are one's own")
                names.add(part.keep)
            if isinstance(part, Probe) and place < last:
                raise ValueError("a Probe ends a layout: what follows it is what `then` returns")
        probed = bool(self.parts) and isinstance(self.parts[-1], Probe)
        if at != segment_length and not probed:
            raise ValueError(
                f"a layout reads {at} of the {segment_length} tokens of a segment; end it with Tokens()"
            )


@dataclass(frozen=True)
class Block:
    """Vectors [B, n, d] that stand side by side in a pass.

    lengths: real ones per row, int64 [B]; None: all. right: they stand at the right end of the n.
    """

    vectors: Tensor
    lengths: Tensor | None = None
    right: bool = False

    def inside(self) -> Tensor:
        """bool [B, n]."""
        n = self.vectors.shape[1]
        slot = torch.arange(n, device=self.vectors.device)
        if self.lengths is None:
            return torch.ones(self.vectors.shape[0], n, dtype=torch.bool, device=self.vectors.device)
        return slot >= n - self.lengths[:, None] if self.right else slot < self.lengths[:, None]


@dataclass(frozen=True)
class Row:
    """Blocks as one row of vectors.

    Attributes:
        vectors: [B, T, d].
        mask: int64 [B, T], 0 at padding; None where no row has any, or where it stands behind what is real.
        places: for each block, where its vectors stand: a Python number (the first of n places, without
            padding), or int64 [B, n] (at padding anything).
    """

    vectors: Tensor
    mask: Tensor | None
    places: list[Tensor | int]

    def read(self, outputs: Tensor, block: int, number: int) -> Tensor:
        """Outputs [B, n, d] at a block of n vectors, of outputs [B, T, d] of this row."""
        place = self.places[block]
        if isinstance(place, int):
            return outputs[:, place : place + number]
        index = place.clamp(0, outputs.shape[1] - 1)
        return gather_vectors(outputs, index)


def join(blocks: Sequence[Block], padding: str, trim: bool = False) -> Row:
    """Blocks side by side.

    padding: where rows are of different length: "behind", which needs no mask, or "before", for rows that
        more is run behind on one cache.
    trim: leave out columns that are padding in every row, and a mask without padding. Asks the device.
    """
    joined = torch.cat([block.vectors for block in blocks], dim=1)
    sizes = [block.vectors.shape[1] for block in blocks]
    if all(block.lengths is None for block in blocks):
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        return Row(joined, None, list(starts))
    inside = torch.cat([block.inside() for block in blocks], dim=1)
    lengths = inside.sum(1, keepdim=True)
    width, alike = joined.shape[1], False
    if trim:
        longest, shortest = torch.stack([lengths.amax(), lengths.amin()]).tolist()
        width, alike = longest, longest == shortest
    before = width - lengths if padding == "before" else torch.zeros_like(lengths)
    place = inside.long().cumsum(1) - 1 + before
    slot = torch.arange(width, device=joined.device)
    # one spare column takes what is not real
    source = place.new_zeros(len(place), width + 1)
    columns = torch.arange(joined.shape[1], device=joined.device).expand_as(place)
    source = source.scatter(1, torch.where(inside, place, width), columns)[:, :width]
    mask = (slot >= before).long() if padding == "before" and not alike else None
    return Row(gather_vectors(joined, source), mask, list(place.split(sizes, dim=1)))


def gather_vectors(vectors: Tensor, index: Tensor) -> Tensor:
    """vectors [B, T, d] at index int64 [B, n] -> [B, n, d]."""
    return vectors.gather(1, index.unsqueeze(-1).expand(-1, -1, vectors.shape[-1]))


def slide(kept: Tensor, segment: Tensor, lengths: Tensor | None = None) -> Tensor:
    """The last k tokens after a segment was read: int64 [B, k] from [B, k] and [B, w].

    lengths: real tokens of each row, int64 [B]; None: all w.
    """
    joined = torch.cat([kept, segment], dim=1)
    if lengths is None:
        return joined[:, segment.shape[1] :]
    return joined.gather(1, lengths[:, None] + torch.arange(kept.shape[1], device=kept.device))
