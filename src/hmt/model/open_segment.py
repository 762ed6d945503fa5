"""A segment while it is read: its layout is laid out from left to right, and run as far as it has to be.

The same code reads a whole segment in one pass, and the open segment token by token on a KV cache. What
stands before the tokens is run together with the first of them, and what stands behind a token together
with it: a segment of L tokens takes L passes, or one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, StaticCache
from transformers.cache_utils import DynamicLayer

from hmt import backbone as bb
from hmt.memory.state import MemoryState
from hmt.model.layout import Block, Embeds, Ids, Layout, Part, Probe, Tokens, join

# what outputs are for, beside the names that parts are kept by
TOKENS, RECORDED, PROBE = "<tokens>", "<recorded>", "<probe>"


class Runner(Protocol):
    """What is needed of a model to run a segment."""

    records_hidden: bool

    @property
    def segment_length(self) -> int: ...

    @property
    def caching(self) -> bb.Caching: ...

    def embed(self, ids: Tensor) -> Tensor: ...

    def run_pass(
        self,
        embeds: Tensor,
        state: MemoryState | None,
        *,
        cache: Any = None,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        one_by_one: bool = False,
    ) -> bb.Pass: ...

    def new_cache(self) -> Any: ...


@dataclass(eq=False)
class OpenSegment:
    """What of a segment has been laid out and run.

    Attributes:
        layout: what gave `recall` and `query`: the whole, or what stands behind its last probe.
        parts: not laid out yet.
        at: tokens laid out so far; rows may differ (then the layout is not staged).
        blocks, wanted, starts: laid out and not yet run, what the outputs there are for, and how many tokens
            each row had before them.
        cache, mask: keys and values of what was run, and its positions int64 [B, C] (None: none is padding).
            No cache before something has to stand behind what is run.
        ran: positions that the cache holds, padding included.
        base: those of a cache that the segment was given (`open_cache`).
        encoded: of the segment, where its layout depends on it.
        settled: whether one more token leaves the layout as it is. Else it is laid out anew.
        kept, layers: see `SegmentRecord`.
        hidden: outputs at tokens that `records_hidden` wants: where they begin in each row, and [B, n, d].
        length: tokens that it will have when it is closed early; None: L.
    """

    layout: Layout
    parts: list[Part | Block]
    at: list[int]
    cache: Any = None
    mask: Tensor | None = None
    ran: int = 0
    base: int = 0
    encoded: Tensor | None = None
    settled: bool = True
    blocks: list[Block] = field(default_factory=list)
    wanted: list[str | None] = field(default_factory=list)
    kept: dict[str, Tensor] = field(default_factory=dict)
    layers: dict[str, Tensor] = field(default_factory=dict)
    hidden: list[tuple[list[int], Tensor]] = field(default_factory=list)
    starts: list[list[int]] = field(default_factory=list)
    length: int | None = None

    def given(self, opened: tuple[Any, Tensor | None]) -> None:
        """Begin behind a cache of the system's own, see `BackboneMemory.open_cache`."""
        self.cache, self.mask = opened
        self.ran = self.base = int(self.cache.get_seq_length())

    def select(self, index: Tensor) -> bool:
        """Keep the streams named by `index`; False where that cannot be, and it must be laid out anew."""
        if isinstance(self.cache, StaticCache) and len(index) != len(self.at):
            return False
        if self.cache is not None and self.ran:
            self.cache.reorder_cache(index)  # recurrent states have no `batch_select_indices`

        def pick(tensor: Any) -> Any:
            return tensor.index_select(0, index) if isinstance(tensor, Tensor) else tensor

        self.at = [self.at[row] for row in index.tolist()]
        self.blocks = [_select(block, pick) for block in self.blocks]  # type: ignore[misc]
        self.mask, self.encoded = pick(self.mask), pick(self.encoded)
        self.parts = [_select(part, pick) for part in self.parts]
        self.layout = Layout((), pick(self.layout.recall), pick(self.layout.query))
        self.kept = {name: pick(value) for name, value in self.kept.items()}
        self.layers = {name: pick(value) for name, value in self.layers.items()}
        rows = index.tolist()
        self.hidden = [([starts[row] for row in rows], pick(value)) for starts, value in self.hidden]
        self.starts = [[starts[row] for row in rows] for starts in self.starts]
        return True

    @classmethod
    def cat(cls, segments: Sequence[OpenSegment]) -> OpenSegment | None:
        """One open segment whose rows are those of several, on one cache, padded on the left.

        None where that cannot be, and the rows must be laid out anew: where something is still to be run or
        to be decided inside a segment, and where a cache holds more than keys and values of its own.
        """
        first = segments[0]
        if not all(one._joins(first) for one in segments):
            return None
        parts = [_cat([one.parts[place] for one in segments]) for place in range(len(first.parts))]
        if any(part is None for part in parts):
            return None
        longest = max(one.ran for one in segments)
        ragged = any(one.mask is not None or one.ran < longest for one in segments)
        cache = DynamicCache()
        for layer in range(len(first.cache.layers)):
            held: list[tuple[Any, int]] = [(one.cache.layers[layer], longest - one.ran) for one in segments]
            cache.update(
                torch.cat([pad(kept.keys, (0, 0, missing, 0)) for kept, missing in held]),
                torch.cat([pad(kept.values, (0, 0, missing, 0)) for kept, missing in held]),
                layer,
            )
        masks = []
        for one in segments if ragged else ():
            device = one.cache.layers[0].keys.device
            here = torch.ones(len(one.at), one.ran, dtype=torch.long, device=device)
            masks.append(pad(here if one.mask is None else one.mask, (longest - one.ran, 0)))
        together = {
            name: torch.cat([getattr(one.layout, name) for one in segments])
            if all(getattr(one.layout, name) is not None for one in segments)
            else None
            for name in ("recall", "query")
        }
        encoded = [one.encoded for one in segments if one.encoded is not None]
        return cls(
            Layout((), **together),
            [part for part in parts if part is not None],
            [at for one in segments for at in one.at],
            cache=cache,
            mask=torch.cat(masks) if masks else None,
            ran=longest,
            encoded=None if first.encoded is None else torch.cat(encoded),
        )

    def _joins(self, other: OpenSegment) -> bool:
        """Whether it is a plain KV cache at the same place of a layout as `other`."""
        plain = isinstance(self.cache, DynamicCache) and all(
            type(layer) is DynamicLayer for layer in self.cache.layers
        )
        waits = self.blocks or self.hidden or self.kept or self.base or not self.settled
        like = len(self.parts) == len(other.parts) and (self.encoded is None) == (other.encoded is None)
        return plain and not waits and like and self.length is None

    def outputs_at_tokens(self, length: int) -> Tensor | None:
        """What was recorded of a whole segment, [B, L, d]; in rows that are shorter, anything beyond them."""
        if not self.hidden:
            return None
        joined = torch.cat([hidden for _, hidden in self.hidden], dim=1)
        starts = torch.tensor([starts for starts, _ in self.hidden], device=joined.device)  # [n, B]
        sizes = [hidden.shape[1] for _, hidden in self.hidden]
        offsets = [torch.arange(size, device=joined.device) for size in sizes]
        at = torch.cat([s[:, None] + o for s, o in zip(starts, offsets, strict=True)], dim=1)
        # from left to right: what stands later overwrites the padding of what stands before
        whole = joined.new_zeros(len(joined), length, joined.shape[2])
        for column in at.split(sizes, dim=1):
            part, joined = joined[:, : column.shape[1]], joined[:, column.shape[1] :]
            whole = whole.scatter(1, column.clamp(max=length - 1)[..., None].expand_as(part), part)
        return whole


def _select(part: Part | Block, pick: Any) -> Part | Block:
    if isinstance(part, Block):
        return Block(pick(part.vectors), pick(part.lengths), part.right)
    if isinstance(part, Embeds):
        return Embeds(pick(part.vectors), part.keep)
    if isinstance(part, Ids):
        return Ids(pick(part.ids), pick(part.lengths))
    return Probe(pick(part.vectors), part.then) if isinstance(part, Probe) else part


def _cat(parts: Sequence[Part | Block]) -> Part | Block | None:
    """The rows of a part of several layouts one below the other; None where they are different parts."""
    first = parts[0]
    if isinstance(first, Tokens):
        return first if all(part == first for part in parts) else None
    if isinstance(first, Embeds) and all(
        isinstance(part, Embeds) and part.keep == first.keep for part in parts
    ):
        return Embeds(torch.cat([part.vectors for part in parts]), first.keep)  # type: ignore[union-attr]
    return None


def embed_parts(model: Runner, parts: Sequence[Part], tokens: Tensor) -> tuple[list[Part | Block], Tensor]:
    """The parts with their ids embedded, and tokens int64 [B, w] as vectors [B, w, d].

    One lookup: the backward pass of each fills a gradient as large as the whole table.
    """
    raw = {place: part for place, part in enumerate(parts) if isinstance(part, Ids)}
    ids = [part.ids[:, part.ids.shape[1] - part.width :] for part in raw.values()]
    together = [*ids, tokens]
    *found, vectors = model.embed(torch.cat(together, dim=1)).split([i.shape[1] for i in together], dim=1)
    embedded: list[Part | Block] = list(parts)
    for (place, part), block in zip(raw.items(), found, strict=True):
        embedded[place] = Block(block, None if isinstance(part.lengths, int) else part.lengths, right=True)
    return embedded, vectors


def place_tokens(
    model: Runner,
    state: MemoryState,
    segment: OpenSegment,
    tokens: Tensor,
    *,
    lengths: Tensor | None = None,
    reached: Tensor | None = None,
    wanted: bool = True,
) -> list[Tensor]:
    """Lay the next tokens [B, n, d] out, and run what has to be run on the way: up to a probe.

    Args:
        lengths: real ones per row, int64 [B], of a segment that has none yet; None: all n.
        reached: tokens that each row has in all, int64 [B]; None: as many as are laid out.
        wanted: whether the outputs at the tokens are.
    Returns the outputs at tokens that were run, in order.
    """
    found: list[Tensor] = []
    number, done = tokens.shape[1], 0
    while segment.parts:
        part = segment.parts[0]
        if isinstance(part, Tokens):
            until = model.segment_length if part.until is None else part.until
            until = until if segment.length is None else min(until, segment.length)
            take = min(number - done, until - max(segment.at))
            if take:
                segment.blocks.append(Block(tokens[:, done : done + take], lengths))
                segment.wanted.append(TOKENS if wanted else RECORDED)
                segment.starts.append(segment.at)
                done += take
                new = [take] * len(segment.at) if lengths is None else lengths.tolist()
                segment.at = [at + n for at, n in zip(segment.at, new, strict=True)]
            if max(segment.at) < until:
                break
            segment.parts.pop(0)
            continue
        segment.parts.pop(0)
        if not isinstance(part, Probe):
            assert not isinstance(part, Ids)  # embedded by now
            segment.blocks.append(part if isinstance(part, Block) else Block(part.vectors.to(tokens.dtype)))
            segment.wanted.append(getattr(part, "keep", None))
            segment.starts.append(segment.at)
            continue
        segment.blocks.append(Block(part.vectors.to(tokens.dtype)))
        segment.wanted.append(PROBE)
        segment.starts.append(segment.at)
        outputs, answer = run_laid_out(model, state, segment, more=True)
        found += outputs
        assert answer is not None
        at = segment.at[0]
        told = torch.ones_like(state.segments, dtype=torch.bool) if reached is None else reached >= at
        segment.layout = part.then(state, answer, told)
        segment.layout.check(model.segment_length, len(segment.at), start=at)
        segment.parts = embed_parts(model, segment.layout.parts, state.segments.new_zeros(len(told), 0))[0]
    return found


def run_laid_out(
    model: Runner, state: MemoryState, segment: OpenSegment, more: bool
) -> tuple[list[Tensor], Tensor | None]:
    """Run what is laid out: the outputs at its tokens, and that of a probe [B, d].

    more: whether something is to be run behind it. Without, and with nothing before it, no cache is needed.
    """
    if not segment.blocks:
        return [], None
    cached = more or segment.cache is not None
    # the device may be asked how long rows are, but not while a graph is traced
    trim = cached and not torch.compiler.is_compiling()
    row = join(segment.blocks, "before" if cached else "behind", trim=trim)
    mask = positions = None
    before, number = segment.ran, row.vectors.shape[1]
    if cached:
        if segment.cache is None:
            segment.cache = model.new_cache()
        # always said: not every cache can count
        positions = torch.arange(before, before + number, device=row.vectors.device).expand(
            len(row.vectors), -1
        )
        segment.ran += number
        if row.mask is not None or segment.mask is not None:
            new = row.mask
            if new is None:
                new = torch.ones(row.vectors.shape[:2], dtype=torch.long, device=row.vectors.device)
            old = segment.mask
            if old is None:
                old = new.new_ones(len(new), before)
            mask = segment.mask = torch.cat([old, new], dim=1)
            # behind places of a cache that was given, the first of which may be empty
            counted = segment.base + (mask[:, segment.base :].cumsum(1) - 1).clamp(min=0)
            positions = counted[:, -number:]
    done = model.run_pass(
        row.vectors,
        state,
        cache=segment.cache,
        mask=mask,
        positions=positions,
        one_by_one=before > 0 and model.caching.one_by_one,
    )
    tokens, answer = [], None
    for block, wanted in enumerate(segment.wanted):
        number = segment.blocks[block].vectors.shape[1]
        if wanted in (TOKENS, RECORDED):
            if wanted == TOKENS or model.records_hidden:
                found = row.read(done.hidden, block, number)
                if wanted == TOKENS:
                    tokens.append(found)
                if model.records_hidden:
                    segment.hidden.append((segment.starts[block], found))
        elif wanted == PROBE:
            answer = row.read(done.hidden, block, number)[:, -1]
        elif wanted is not None:
            # what becomes memory outlives the segment: a slice would keep all of its outputs with it
            segment.kept[wanted] = row.read(done.hidden, block, number).clone()
            if done.layers is not None:
                layers = [row.read(layer, block, number) for layer in done.layers]
                segment.layers[wanted] = torch.stack(layers, dim=1)
    segment.blocks, segment.wanted, segment.starts = [], [], []
    return tokens, answer
