"""MemoryState: everything a system carries from one segment to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

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
        """`function` of every value, and of `at`."""
        return Entry({name: function(value) for name, value in self.values.items()}, function(self.at))


@dataclass(frozen=True, eq=False)
class MemoryState:
    """Immutable named tensors, batch first: row b belongs to stream b.

    Every system has `segments` [B] (int64, closed segments read so far); the other names are its own.
    All shapes are fixed, so states of streams of different age can share a batch.

    A ring is a tensor [B, N, ...] that holds one entry for each of the last N segments, that of segment n in
    slot n mod N. `push` writes an entry and `ring` reads the whole. Every push copies the ring, and training
    through many segments would have to keep every copy: a state made by `recording` keeps the entries
    themselves (pending writes) until `consolidated` writes them into a copy, or `settled` in place.

    Attributes:
        tensors: by name.
        pending: entries that are not yet in their rings; None in a state that keeps none.
        fresh: nothing was written before the pending entries: the rings themselves are empty.
        ages: fewest and most closed segments of the rows, where they are known without asking the device.
    """

    tensors: Mapping[str, Tensor]
    pending: tuple[Entry, ...] | None = None
    fresh: bool = False
    ages: tuple[int, int] | None = None

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    @property
    def segments(self) -> Tensor:
        """Closed segments per stream, int64 [B]."""
        return self.tensors["segments"]

    @property
    def batch_size(self) -> int:
        """Streams, B."""
        return self.segments.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes carried for the whole batch, once all is written."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def map(self, function: Callable[[Tensor], Tensor]) -> MemoryState:
        """`function` of every tensor, those of pending writes included."""
        tensors = {name: function(tensor) for name, tensor in self.tensors.items()}
        pending = None if self.pending is None else tuple(entry.map(function) for entry in self.pending)
        return MemoryState(tensors, pending, self.fresh, self.ages)

    def select(self, index: Tensor) -> MemoryState:
        """The streams named by `index` (int64 [R]), in that order; a row may be repeated."""
        return replace(self.map(lambda tensor: tensor.index_select(0, index.to(tensor.device))), ages=None)

    def aged(self, youngest: int, oldest: int) -> MemoryState:
        """The same state, told how many segments its youngest and oldest row have closed."""
        return replace(self, ages=(youngest, oldest))

    def number(self, per_segment: int, most: int) -> Tensor | int:
        """min(`most`, `per_segment` x closed segments), of each row: int64 [B], or a Python number where it
        is known to be the same in all of them."""
        if self.ages is not None:
            least, top = (min(most, age * per_segment) for age in self.ages)
            if least == top:
                return least
        return (self.segments * per_segment).clamp(max=most)

    def detach(self) -> MemoryState:
        """The same state without gradients."""
        return self.map(Tensor.detach)

    def to(self, device: Any) -> MemoryState:
        """The same state with its tensors on `device`."""
        return self.map(lambda tensor: tensor.to(device))

    @staticmethod
    def cat(states: list[MemoryState]) -> MemoryState:
        """One batch made of several states without pending writes."""
        return MemoryState({name: torch.cat([s[name] for s in states]) for name in states[0].tensors})

    # -- writing --------------------------------------------------------------------------------------------

    def updated(self, active: Tensor, **new: Tensor) -> MemoryState:
        """A copy in which the rows where `active` (bool [B]) take those in `new`; the others keep theirs."""
        tensors = dict(self.tensors)
        for name, value in new.items():
            old = tensors[name]
            tensors[name] = torch.where(active.view(-1, *[1] * (old.dim() - 1)), value.to(old.dtype), old)
        return MemoryState(tensors, self.pending, self.fresh, self.ages)

    def push(self, active: Tensor, **entries: Tensor) -> MemoryState:
        """Write entries [B, ...] of segment `segments` into the rings of those names, where `active`."""
        entry = Entry(entries, torch.where(active, self.segments, -1))
        if self.pending is None:
            return replace(self, tensors={**self.tensors, **self._written((entry,), *entries)})
        pending = (*self.pending, entry)
        if len(pending) == min(self.tensors[name].shape[1] for name in entries):
            # all slots of the smallest ring have been written: later entries would fall on pending ones
            tensors = {**self.tensors, **self._written(pending, *entries)}
            return replace(self, tensors=tensors, pending=(), fresh=False)
        return replace(self, pending=pending)

    def ring(self, name: str) -> Tensor:
        """The ring [B, N, ...]; only its first slots [B, n, ...] while no more than these can be filled.

        Slots that a stream has not filled hold anything.
        """
        if not self.pending:
            ring = self.tensors[name]
            return ring[:, :0] if self.fresh else ring
        if self.fresh:
            dtype = self.tensors[name].dtype
            return torch.stack([entry.values[name].to(dtype) for entry in self.pending], dim=1)
        return self._written(self.pending, name)[name]

    def recording(self, fresh: bool = False) -> MemoryState:
        """The same state, keeping what is pushed as pending writes. `fresh`: no stream has read anything."""
        return replace(self, pending=(), fresh=fresh)

    def consolidated(self) -> MemoryState:
        """The same state without pending writes: every entry is in its ring."""
        if not self.pending:
            return MemoryState(self.tensors)
        return MemoryState({**self.tensors, **self._written(self.pending, *self.pending[0].values)})

    def settled(self) -> MemoryState:
        """The same, written into the rings in place: only for whoever holds the only reference to them.

        A bank of 65,000 embeddings is otherwise copied for every one that is added.
        """
        for entry in self.pending or ():
            for name, value in entry.values.items():
                ring, index, wrote = self._slots(name, entry.at[:, None])
                value = value.to(ring.dtype).unsqueeze(1)
                ring.scatter_(1, index, torch.where(wrote, value, ring.gather(1, index)))
        return replace(self, pending=None if self.pending is None else ())

    def _slots(self, name: str, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The ring of that name, where segments `at` int64 [B, n] stand in it, and whether they are."""
        ring = self.tensors[name]
        shape = (*at.shape, *[1] * (ring.dim() - 2))
        index = (at % ring.shape[1]).view(shape).expand(-1, -1, *ring.shape[2:])
        return ring, index, (at >= 0).view(shape)

    def _written(self, pending: tuple[Entry, ...], *names: str) -> dict[str, Tensor]:
        """Copies of the rings of those names with pending entries (at most one per slot) in their slots."""
        rings = {}
        for name in names:
            at = torch.stack([entry.at for entry in pending], dim=1)  # [B, n]
            ring, index, wrote = self._slots(name, at)
            value = torch.stack([entry.values[name].to(ring.dtype) for entry in pending], dim=1)
            # a row that wrote nothing has -1, the last slot: what stands there is written again
            if len(pending) == 1:
                value = torch.where(wrote, value, ring.gather(1, index))
                rings[name] = ring.scatter(1, index, value)
            else:
                size = ring.shape[1]
                spare = torch.cat([ring, ring[:, :1]], dim=1)
                rings[name] = spare.scatter(1, torch.where(wrote, index, size), value)[:, :size]
        return rings
