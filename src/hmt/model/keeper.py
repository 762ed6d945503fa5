"""Making memories, and accepting only one's own."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Cache

from hmt import backbone as bb
from hmt.memory.identity import LiveOrigin, check_same
from hmt.memory.memory import Memory
from hmt.memory.state import MemoryState


class KeeperMixin:
    """The memories of a model; mixed into `SegmentMemoryModel`."""

    def new_memory(self: Any, batch_size: int) -> Memory:
        """The memory of streams that have read nothing."""
        device = bb.embedding_table(self.backbone).weight.device
        ids = torch.zeros(batch_size, self.config.segment_length, dtype=torch.long, device=device)
        lengths = torch.zeros(batch_size, dtype=torch.long, device=device)
        return Memory(self.initial_state(batch_size), ids, lengths, self.origin())

    def origin(self: Any) -> LiveOrigin:
        """What ties a memory to this model. The fingerprint is only computed when somebody saves or loads."""
        return LiveOrigin(self)

    def adopt(self: Any, memory: Memory, source="the memory") -> Memory:
        """Check that `memory` was made by this model, and move it to its device. ValueError if it was not."""
        mine = self.origin()
        check_same(memory.origin, mine, source)
        fresh = self.initial_state(1)
        want = {name: tensor.shape[1:] for name, tensor in fresh.tensors.items()}
        have = {name: tensor.shape[1:] for name, tensor in memory.state.tensors.items()}
        if want != have:
            raise ValueError(f"{source} is damaged: its tensors have shapes {have}, this model needs {want}")
        memory = memory.to(bb.embedding_table(self.backbone).weight.device)
        memory.state = MemoryState({n: t.to(fresh[n].dtype) for n, t in memory.state.tensors.items()})
        memory.origin = mine
        return memory

    def memory_for(self: Any, cache, batch: int) -> Memory:
        """`cache` as this model's memory of `batch` streams; a new one for None or an empty stock cache."""
        if isinstance(cache, Memory):
            if cache.batch_size != batch:
                raise ValueError(f"the memory holds {cache.batch_size} streams and the input {batch} rows")
            mine = isinstance(cache.origin, LiveOrigin) and cache.origin.owner is self
            return cache if mine else self.adopt(cache)
        if cache is not None and (not isinstance(cache, Cache) or cache.get_seq_length() > 0):
            kind = ("filled " if isinstance(cache, Cache) else "") + type(cache).__name__
            raise ValueError(f"past_key_values must be a hmt Memory made by this model, not a {kind}")
        return self.new_memory(batch)
