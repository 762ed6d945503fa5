"""KVMemory: systems whose memory is keys and values of tokens that were read, each computed once."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from hmt.backbone import KeptKV, KeyPositions, RollingCache, embedding_table
from hmt.backbone.flops import BackboneFlops, causal_pairs
from hmt.memory.state import MemoryState
from hmt.model.base import BackboneMemory
from hmt.model.layout import Layout, Tokens
from hmt.model.outputs import SegmentRecord


class KVMemory(BackboneMemory):
    """A segment is run behind the keys and values of the first `sinks` tokens and the last `window`.

    State: keys.l and values.l of every layer [B, heads, sinks + window, head size] (keys without positions;
    filled slots at the right end), segments [B]. Positions are places in the cache: they do not grow.
    """

    #: Whether gradients flow into what was kept.
    keeps_gradients: ClassVar[bool] = True

    @property
    def window(self) -> int:
        """Last tokens whose keys and values are kept."""
        raise TypeError(f"{type(self).__name__} defines no window")  # pragma: no cover - abstract

    @property
    def sinks(self) -> int:
        """First tokens whose keys and values are kept."""
        return 0

    @property
    def slots(self) -> int:
        """Tokens whose keys and values are kept at most."""
        return self.sinks + self.window

    @property
    def horizon(self) -> int | None:
        """Each layer looks as far back as the window; sinks are never forgotten."""
        if self.sinks:
            return None
        return -(-self.window // self.segment_length) * len(self.places.layers)

    @property
    def places(self) -> KeyPositions:
        """How keys of this backbone depend on positions. ValueError, by name, where they cannot be moved."""
        found = self.__dict__.get("_places")
        if found is None:
            found = self.__dict__["_places"] = KeyPositions.of(self.backbone)
        return found

    def check_backbone(self) -> None:
        """ValueError, by name, for a backbone whose keys cannot be moved (see `places`)."""
        if self.input_device.type != "meta":
            assert self.places
            self.caching.check_plain(self.backbone)

    def at_budget(self, nbytes: int) -> Self:
        """With the longest window that fits."""
        return self.largest_within(nbytes)

    def flops_per_segment(self) -> int:
        """The segment behind all the keys that are kept."""
        pairs = causal_pairs(self.segment_length, before=self.slots)
        return BackboneFlops.of(self.backbone).forward(self.segment_length, pairs)

    def initial_state(self, batch_size: int) -> MemoryState:
        """Zeros of the shapes that the class names, in the dtype of the embeddings."""
        table = embedding_table(self.backbone).weight
        tensors = {
            f"{kind}.{layer}": table.new_zeros(batch_size, heads, self.slots, size).detach()
            for layer, sizes in enumerate(self.places.sizes)
            for kind, (heads, size) in zip(("keys", "values"), sizes, strict=True)
        }
        return MemoryState(
            {**tensors, "segments": torch.zeros(batch_size, dtype=torch.long, device=table.device)}
        )

    def layout(self, state: MemoryState, encoded: Tensor | None) -> Layout:
        """The tokens alone: what was read stands in the cache."""
        return Layout([Tokens()])

    def open_cache(self, state: MemoryState) -> tuple[Any, Tensor | None]:
        """A `RollingCache` of what is kept, and the mask int64 [B, slots] of filled slots.

        No mask where all rows are known to hold equally many: empty slots are left out then.
        """
        held = state.number(self.segment_length, self.slots)
        if held == 0 if isinstance(held, int) else self.slots == 0:
            return RollingCache(self.places, self.window, self.sinks), None
        layers = range(len(self.places.layers))
        if isinstance(held, int):
            number = torch.full_like(state.segments, held)
            # as many in every row: the slots that are not filled are left out
            keys = tuple(state[f"keys.{layer}"][:, :, self.slots - held :] for layer in layers)
            values = tuple(state[f"values.{layer}"][:, :, self.slots - held :] for layer in layers)
            return RollingCache(self.places, self.window, self.sinks, KeptKV(keys, values, number)), None
        keys = tuple(state[f"keys.{layer}"] for layer in layers)
        values = tuple(state[f"values.{layer}"] for layer in layers)
        slot = torch.arange(self.slots, device=held.device)
        mask = (slot >= self.slots - held[:, None]).long()
        return RollingCache(self.places, self.window, self.sinks, KeptKV(keys, values, held)), mask

    def update(self, state: MemoryState, record: SegmentRecord) -> MemoryState:
        """Of all that was read, the segment included, sinks and the last `window` tokens are kept."""
        record.cache.evict(fixed=True)
        kept = record.cache.content()
        if not self.keeps_gradients:
            kept = kept.detach()
        new = {f"keys.{layer}": keys for layer, keys in enumerate(kept.keys)}
        new |= {f"values.{layer}": values for layer, values in enumerate(kept.values)}
        if state.ages is None or (state.ages[0] + 1) * self.segment_length < self.slots:
            # slots that are not filled hold anything: equal streams have equal states
            slot = torch.arange(self.slots, device=kept.lengths.device)
            filled = (slot >= self.slots - kept.lengths[:, None])[:, None, :, None]
            new = {name: torch.where(filled, value, 0) for name, value in new.items()}
        return state.updated(record.full, **new, segments=state.segments + 1)
