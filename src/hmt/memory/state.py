"""MemoryState: everything a system carries from one segment to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Entry:
    """What one segment wrote into the rings of a state.

    Attributes:
        values: by ring, [B, ...].
        at: int64 [B], the segment that was written; -1 in rows that wrote nothing.
    """

    values: Mapping[str, Tensor]
    at: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> Entry:
        return Entry({name: function(value) for name, value in self.values.items()}, function(self.at))


@dataclass(frozen=True, eq=False)
class MemoryState:
    """Immutable named tensors, batch first: row b belongs to stream b.

    Every system has `segments` [B] (int64, closed segments read so far); the other names are its own.
    All shapes are fixed, so states of streams of different age can share a batch.

    A ring is a tensor [B, N, ...] that holds one entry for each of the last N segments, that of segment n in
    slot n mod N. `push` writes an entry and `ring` reads the whole. Every push copies the ring, and training
    through many segments would have to keep every copy: a state made by `recording` keeps the entries
    themselves (`trail`) until `consolidated` writes them.
    """

    tensors: Mapping[str, Tensor]
    trail: tuple[Entry, ...] | None = None
    fresh: bool = False  # nothing was written before the trail: the rings themselves are empty

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    @property
    def segments(self) -> Tensor:
        """Closed segments per stream, int64 [B]."""
        return self.tensors["segments"]

    @property
    def batch_size(self) -> int:
        return self.segments.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes carried for the whole batch, once the trail is written."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def map(self, function: Callable[[Tensor], Tensor]) -> MemoryState:
        tensors = {name: function(tensor) for name, tensor in self.tensors.items()}
        trail = None if self.trail is None else tuple(entry.map(function) for entry in self.trail)
        return MemoryState(tensors, trail, self.fresh)

    def rows(self, index: Tensor) -> MemoryState:
        """The streams named by `index` (int64 [R]), in that order; a row may be repeated."""
        return self.map(lambda tensor: tensor.index_select(0, index.to(tensor.device)))

    def detach(self) -> MemoryState:
        return self.map(Tensor.detach)

    def to(self, device) -> MemoryState:
        return self.map(lambda tensor: tensor.to(device))

    @staticmethod
    def cat(states: list[MemoryState]) -> MemoryState:
        """One batch made of several states without trails."""
        return MemoryState({name: torch.cat([s[name] for s in states]) for name in states[0].tensors})

    # -- writing --------------------------------------------------------------------------------------------

    def updated(self, active: Tensor, **new: Tensor) -> MemoryState:
        """A copy in which the rows where `active` (bool [B]) take those in `new`; the others keep theirs."""
        tensors = dict(self.tensors)
        for name, value in new.items():
            old = tensors[name]
            tensors[name] = torch.where(active.view(-1, *[1] * (old.dim() - 1)), value.to(old.dtype), old)
        return MemoryState(tensors, self.trail, self.fresh)

    def push(self, active: Tensor, **entries: Tensor) -> MemoryState:
        """Write entries [B, ...] of segment `segments` into the rings of those names, where `active`."""
        entry = Entry(entries, torch.where(active, self.segments, -1))
        if self.trail is None:
            return MemoryState({**self.tensors, **self._written((entry,), *entries)})
        trail = (*self.trail, entry)
        if len(trail) == min(self.tensors[name].shape[1] for name in entries):
            # all slots of the smallest ring have been written: later entries would fall on those of the trail
            return MemoryState({**self.tensors, **self._written(trail, *entries)}, (), False)
        return MemoryState(self.tensors, trail, self.fresh)

    def ring(self, name: str) -> Tensor:
        """The ring [B, N, ...]; only its first slots [B, n, ...] while no more than these can be filled.

        Slots that a stream has not filled hold anything.
        """
        if not self.trail:
            ring = self.tensors[name]
            return ring[:, :0] if self.fresh else ring
        if self.fresh:
            dtype = self.tensors[name].dtype
            return torch.stack([entry.values[name].to(dtype) for entry in self.trail], dim=1)
        return self._written(self.trail, name)[name]

    def recording(self, fresh: bool) -> MemoryState:
        """The same state, keeping what is pushed as a trail. `fresh`: no stream has read anything."""
        return MemoryState(self.tensors, (), fresh)

    def consolidated(self) -> MemoryState:
        """The same state without a trail: every entry is in its ring."""
        if not self.trail:
            return MemoryState(self.tensors)
        return MemoryState({**self.tensors, **self._written(self.trail, *self.trail[0].values)})

    def _written(self, trail: tuple[Entry, ...], *names: str) -> dict[str, Tensor]:
        """The rings of those names with the entries of `trail` (at most one per slot) in their slots."""
        rings = {}
        for name in names:
            ring = self.tensors[name]
            size, trailing = ring.shape[1], ring.shape[2:]
            at = torch.stack([entry.at for entry in trail], dim=1)  # [B, n]
            value = torch.stack([entry.values[name].to(ring.dtype) for entry in trail], dim=1)
            index = (at % size).view(*at.shape, *[1] * len(trailing)).expand(-1, -1, *trailing)
            wrote = (at >= 0).view(*at.shape, *[1] * len(trailing))
            # a row that wrote nothing has -1, the last slot: what stands there is written again
            if len(trail) == 1:
                value = torch.where(wrote, value, ring.gather(1, index))
                rings[name] = ring.scatter(1, index, value)
            else:
                spare = torch.cat([ring, ring[:, :1]], dim=1)
                rings[name] = spare.scatter(1, torch.where(wrote, index, size), value)[:, :size]
        return rings
