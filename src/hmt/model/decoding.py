"""The open segment on a KV cache: a token costs one pass of one position, whatever was read before.

New tokens are run behind what the cache holds of the open segment's layout, and in the same pass what has to
stand behind them. So a segment of L tokens costs L passes, and closing it is identical to a full pass.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from hmt.memory.memory import Memory
from hmt.memory.state import MemoryState
from hmt.model.layout import Layout
from hmt.model.open_segment import OpenSegment, Runner, embed_parts, place_tokens, run_laid_out
from hmt.model.outputs import SegmentRecord


class Appender(Runner, Protocol):
    """What is needed of a model to append to its open segment; methods as in `BackboneMemory`."""

    compiled: Any

    @property
    def lookahead(self) -> int: ...

    @property
    def encodes(self) -> bool: ...

    def encode_one(self, segment: Tensor, lengths: Tensor | None) -> Tensor | None: ...

    def layout(self, state: MemoryState, encoded: Tensor | None) -> Layout: ...

    def open_cache(self, state: MemoryState) -> tuple[Any, Tensor | None] | None: ...

    def record(
        self, segment: OpenSegment, ids: Tensor, full: Tensor, encoded: Tensor | None
    ) -> SegmentRecord: ...

    def update(self, state: MemoryState, record: SegmentRecord) -> MemoryState: ...


def append(model: Appender, memory: Memory, ids: Tensor) -> Tensor | None:
    """Read tokens of the open segments, int64 [B, T], advancing `memory` in place -> outputs [B, T, d].

    None, and nothing done, where they do not fit into the open segments, where rows are differently far in
    a segment that something stands inside of, and where the backbone cannot be continued (`bb.Caching`).
    """
    if not model.caching.works:
        return None
    segment = memory.open
    longest = max(segment.at) if segment else int(memory.open_lengths.max())
    if longest + ids.shape[1] > model.segment_length:
        return None
    if segment is None or not segment.settled or _lent(model, segment):
        segment = memory.open = open_segment(model, memory, ids)
        if segment is None:
            return None
    tokens = model.embed(ids)
    at = memory.open_lengths[:, None] + torch.arange(ids.shape[1], device=ids.device)
    memory.open_ids = memory.open_ids.scatter(1, at, ids)
    memory.open_lengths = memory.open_lengths + ids.shape[1]
    found = place_tokens(model, memory.state, segment, tokens)
    closing = not segment.parts
    found += run_laid_out(model, memory.state, segment, more=not closing)[0]
    if closing:
        close_segment(model, memory, segment)
    return found[0] if len(found) == 1 else torch.cat(found, dim=1)


def _lent(model: Appender, segment: OpenSegment) -> bool:
    """Whether somebody else has been given the static cache of this segment."""
    return model.compiled is not None and not model.compiled.uses_cache(segment, len(segment.at))


def open_segment(model: Appender, memory: Memory, ids: Tensor) -> OpenSegment | None:
    """The open segments as they are, ready to be run with the tokens `ids` [B, T] that come next; or None.

    Of a system whose layout depends on tokens that are still to come, it stays only where all are known.
    """
    tokens, lengths = memory.open_ids, memory.open_lengths
    held: list[int] = lengths.tolist()
    youngest, oldest = torch.stack([*memory.segments_read.aminmax()]).tolist()
    state = memory.state = memory.state.aged(youngest, oldest)
    alike = min(held) == max(held)
    encoded, settled = None, True
    if model.lookahead:
        known = lengths + ids.shape[1]
        at = lengths[:, None] + torch.arange(ids.shape[1], device=ids.device)
        # no further than the tokens reach: the rest is padding
        encoded = model.encode_one(tokens.scatter(1, at, ids)[:, : max(held) + ids.shape[1]], known)
        settled = min(held) + ids.shape[1] >= model.lookahead
    layout = model.layout(state, encoded).known()
    ragged = not alike or layout.padded
    if (layout.staged and not alike) or (ragged and not model.caching.padded):
        return None
    layout.check(model.segment_length, len(held))
    parts, vectors = embed_parts(model, layout.parts, tokens[:, : max(held)])
    segment = OpenSegment(layout, parts, [0] * len(held), encoded=encoded, settled=settled)
    opened = model.open_cache(state)
    if opened is not None:
        segment.given(opened)
    elif model.compiled and settled and not ragged and model.compiled.continued:
        segment.cache = model.compiled.lend_cache(segment, len(held))
    if max(held):
        place_tokens(model, state, segment, vectors, lengths=None if alike else lengths, wanted=False)
    return segment


def close_segment(model: Appender, memory: Memory, segment: OpenSegment) -> None:
    """Turn the open segments that are full into memory. Those of all streams are laid out anew on demand."""
    ids, lengths = memory.open_ids, memory.open_lengths
    full = lengths == model.segment_length
    encoded = segment.encoded
    if encoded is None and model.encodes:
        encoded = model.encode_one(ids, lengths)
    state = model.update(memory.state, model.record(segment, ids, full, encoded))
    memory.state = MemoryState(state.tensors)
    memory.open_ids = torch.where(full[:, None], 0, ids)
    memory.open_lengths = torch.where(full, 0, lengths)
    memory.open = None
