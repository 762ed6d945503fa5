"""MemoryState: everything a system carries from one segment to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class MemoryState:
    """Immutable named tensors, batch first: row b belongs to stream b.

    Every system has `segments` [B] (int64, closed segments read so far); the other names are its own.
    All shapes are fixed, so states of streams of different age can share a batch.
    """

    tensors: Mapping[str, Tensor]

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
        """Bytes carried for the whole batch."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def map(self, function: Callable[[Tensor], Tensor]) -> MemoryState:
        return MemoryState({name: function(tensor) for name, tensor in self.tensors.items()})

    def rows(self, index: Tensor) -> MemoryState:
        """The streams named by `index` (int64 [R]), in that order; a row may be repeated."""
        return self.map(lambda tensor: tensor.index_select(0, index.to(tensor.device)))

    def detach(self) -> MemoryState:
        return self.map(Tensor.detach)

    def to(self, device) -> MemoryState:
        return self.map(lambda tensor: tensor.to(device))

    def updated(self, active: Tensor, **new: Tensor) -> MemoryState:
        """A copy in which the rows where `active` (bool [B]) take those in `new`; the others keep theirs."""
        tensors = dict(self.tensors)
        for name, value in new.items():
            old = tensors[name]
            tensors[name] = torch.where(active.view(-1, *[1] * (old.dim() - 1)), value.to(old.dtype), old)
        return MemoryState(tensors)

    @staticmethod
    def cat(states: list[MemoryState]) -> MemoryState:
        """One batch made of several."""
        return MemoryState({name: torch.cat([s[name] for s in states]) for name in states[0].tensors})
