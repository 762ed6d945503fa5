"""BackboneMemory: a system around a Hugging Face model, made from what stands in a segment and what is left.

A system says which parts a segment is laid out in (`layout`) and what it leaves behind (`update`). From these
come the whole pass over a segment, the open segment on a KV cache and decoding, all by the same code
(`hmt.model.open_segment`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import StaticCache

from hmt import backbone as bb
from hmt.backbone.flops import segment_flops
from hmt.memory.memory import Memory
from hmt.memory.state import MemoryState
from hmt.model import decoding, exporting
from hmt.model.checkpoint import BackboneWrapper
from hmt.model.compiling import CompiledSteps
from hmt.model.layout import Ids, Layout, Probe, Tokens
from hmt.model.open_segment import OpenSegment, embed_parts, place_tokens, run_laid_out
from hmt.model.outputs import SegmentRecord, StepOutput
from hmt.model.segments import Grid

_FOREVER = 2**40  # segments: more than any stream has


class BackboneMemory(BackboneWrapper):
    """Base of the systems around a backbone. A subclass defines `initial_state`, `layout` and `update`.

    Optional: `add_modules`, `encode`, `layer_memory`, `open_cache`, and what `StreamingLM` lets it declare.
    TypeError when a class is made that overrides one half of this and would compute something else in the
    other: `step` or `append` (extend `BackboneWrapper` for a system with a step of its own), or `layout`
    without `update`.
    """

    #: Whether `update` is given the outputs at the tokens (`SegmentRecord.hidden`).
    records_hidden: bool = False

    _PARTS: ClassVar[tuple[str, ...]] = ("initial_state", "layout", "update")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("step", "append"):
            if getattr(cls, name) is not getattr(BackboneMemory, name):
                raise TypeError(
                    f"{cls.__name__} overrides {name}, which BackboneMemory makes from layout and update for "
                    "reading and decoding alike: define those, or extend BackboneWrapper and define step"
                )
        missing = [name for name in cls._PARTS if getattr(cls, name) is getattr(BackboneMemory, name)]
        if missing:
            raise TypeError(
                f"{cls.__name__} does not define {', '.join(missing)}; a system is {', '.join(cls._PARTS)}"
            )

    # -- what a system defines ------------------------------------------------------------------------------

    def layout(self, state: MemoryState, encoded: Tensor | None) -> Layout:
        """The parts of the next segment, from left to right.

        state: `state.number(...)` tells how many raw tokens there are, as a Python number where it is known.
        encoded: this segment's slice of `encode`; a system without `lookahead` must not use it here.
        """
        raise TypeError(f"{type(self).__name__} defines no layout")  # pragma: no cover - abstract

    def update(self, state: MemoryState, record: SegmentRecord) -> MemoryState:
        """The state after a segment; rows where `record.full` is False must keep theirs.

        `state.updated(record.full, ...)` and `state.push(record.full, ...)` see to that.
        """
        raise TypeError(f"{type(self).__name__} defines no update")  # pragma: no cover - abstract

    def layer_memory(self, state: MemoryState) -> bb.LayerMemory | None:
        """What is read before every layer while a segment is run; None: nothing is.

        The outputs of all layers at kept parts are then in `SegmentRecord.layers`.
        """
        return None

    def open_cache(self, state: MemoryState) -> tuple[Any, Tensor | None] | None:
        """Keys and values that a segment is run behind, and the mask int64 [B, C] of their positions.

        The cache is a new transformers `Cache`, which the segment is written to; its mask is None where no
        row is padded. It is handed to `update` (`SegmentRecord.cache`). None: a segment begins without one.
        """
        return None

    @property
    def encodes(self) -> bool:
        """Whether `encode` gives anything."""
        return type(self).encode is not BackboneMemory.encode

    # -- one segment ----------------------------------------------------------------------------------------

    def embed(self, ids: Tensor) -> Tensor:
        """Embeddings [..., d] of int64 [...]."""
        return bb.embed(self.backbone, ids)

    def run_pass(
        self,
        embeds: Tensor,
        state: MemoryState | None,
        *,
        cache: Any = None,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        one_by_one: bool = False,
    ) -> bb.Pass:
        """Every pass of the backbone over a segment; arguments as of `hmt.backbone.run.run`.

        state: what the layers read from; None for a pass that is no part of a segment's layout.
        """
        memory = None if state is None else self.layer_memory(state)
        if memory is None and self.compiled and not torch.compiler.is_compiling():
            if isinstance(cache, StaticCache) and embeds.shape[1] == 1:
                return bb.Pass(self.compiled.read_token(embeds, cache), cache)
            if cache is None and embeds.shape[1] in self.compiled.lengths:
                return bb.Pass(self.compiled.hidden(embeds))
        return bb.run(
            self.backbone,
            embeds,
            cache=cache,
            mask=mask,
            positions=positions,
            one_by_one=one_by_one,
            layer_memory=memory,
        )

    @property
    def caching(self) -> bb.Caching:
        """How the backbone may be continued on a cache, tried out when it is asked for the first time."""
        found = self.__dict__.get("_caching")
        if found is None:
            longest = self.segment_length + self.positions_around()
            found = self.__dict__["_caching"] = bb.Caching.of(self.backbone, longest)
        return found

    def check_backbone(self) -> None:
        """ValueError, by name, without a KV cache where a segment is read in two passes on one."""
        if self.input_device.type != "meta" and Layout(self._laid_out(0)).staged:
            self.caching.check_plain(self.backbone)

    def new_cache(self) -> Any:
        """An empty cache of the kind the backbone's layers need."""
        return bb.new_cache(self.backbone)

    def encode_one(self, segment: Tensor, lengths: Tensor | None) -> Tensor | None:
        """`encode` of one segment per row, int64 [B, w] -> [B, ...]."""
        encoded = self.encode(segment[:, None], None if lengths is None else lengths[:, None])
        return None if encoded is None else encoded[:, 0]

    def read_segment(
        self,
        segment: Tensor,
        state: MemoryState,
        lengths: Tensor | None,
        encoded: Tensor | None,
        closing: bool = False,
    ) -> tuple[Tensor, Layout, SegmentRecord | None]:
        """Outputs [B, w, d] at the tokens of a segment int64 [B, w], its layout, and its record if it has L.

        closing: it ends here, with w tokens. ValueError for a layout that does not fit.
        """
        layout = self.layout(state, encoded)
        layout.check(self.segment_length, len(segment))
        opened = self.open_cache(state)
        parts, tokens = embed_parts(self, layout.parts, segment)
        running = OpenSegment(layout, parts, [0] * len(segment))
        running.length = segment.shape[1] if closing else None
        if opened is not None:
            running.given(opened)
        # what a row holds beyond its length changes nothing before it, and is not recorded
        found = place_tokens(self, state, running, tokens, reached=lengths)
        whole = not running.parts
        found += run_laid_out(self, state, running, more=False)[0]
        hidden = found[0] if len(found) == 1 else torch.cat(found, dim=1)
        if not whole:
            return hidden, running.layout, None
        if lengths is None:
            full = torch.ones_like(state.segments, dtype=torch.bool)
        else:
            full = lengths == self.segment_length
        return hidden, running.layout, self.record(running, segment, full, encoded)

    def record(
        self, segment: OpenSegment, ids: Tensor, full: Tensor, encoded: Tensor | None
    ) -> SegmentRecord:
        """What `update` is given of a segment int64 [B, L] that has been run; full: bool [B]."""
        hidden = segment.outputs_at_tokens(self.segment_length) if self.records_hidden else None
        return SegmentRecord(
            ids, full, None, encoded, segment.kept, segment.layers, hidden, segment.cache, segment.mask
        )

    def run(self, grid: Grid, state: MemoryState, **options: Any) -> Iterator[tuple[int, StepOutput]]:
        """As `StreamingLM.run`. ValueError for gradient checkpointing that would drop a cache, or hooks."""
        if self.training and bb.is_checkpointed(self.backbone) and not self.one_pass():
            raise ValueError(
                f"a {self.config.model_type} as configured here reads a segment with a cache or inside the "
                "layers, which gradient checkpointing inside the backbone switches off; turn that off and "
                "train with replay=True, which saves more memory"
            )
        return super().run(grid, state, **options)

    def one_pass(self) -> bool:
        """Whether a segment is one pass, without a cache and with nothing read inside the layers."""
        layout, state = self._layout_of(0)
        return not layout.staged and self.open_cache(state) is None and self.layer_memory(state) is None

    def pass_over(
        self,
        segment: Tensor,
        state: MemoryState,
        lengths: Tensor | None,
        written: Tensor | None,
        ended: Tensor | None = None,
    ) -> StepOutput:
        """A segment that is only read; see `StreamingLM.pass_over`."""
        nothing = torch.zeros_like(self.embed(segment[:, :1])).expand(-1, segment.shape[1], -1)
        full = torch.full_like(state.segments, segment.shape[1] == self.segment_length, dtype=torch.bool)
        if lengths is not None:
            full = lengths == self.segment_length
        if ended is not None:
            full = full | ended
        record = SegmentRecord(segment, full, lengths if ended is not None else None, written=written)
        return StepOutput(nothing, replace(self.update(state, record), ages=None))

    @torch.no_grad()
    def flush(self, memory: Memory) -> Memory:
        """A memory whose open segments are closed, see `StreamingLM.flush`."""
        if not self.closes_early:
            return super().flush(memory)
        memory = self.memory_for(memory, memory.batch_size)
        parts, rows = [], []
        with bb.evaluating(self):
            for length in sorted(set(memory.open_lengths.tolist())):
                index = (memory.open_lengths == length).nonzero()[:, 0]
                part = memory.state.select(index)
                if length:
                    part = self.close(memory.open_ids.index_select(0, index)[:, :length], part)
                parts.append(part.consolidated())
                rows.append(index)
        state = MemoryState.cat(parts).select(torch.cat(rows).argsort())
        nothing = torch.zeros_like(memory.open_ids), torch.zeros_like(memory.open_lengths)
        return Memory(state, *nothing, memory.identity)

    def close(self, segment: Tensor, state: MemoryState, lengths: Tensor | None = None) -> MemoryState:
        """The state after a segment int64 [B, w], w <= L, that ends here, with gradients.

        lengths: real tokens of each row, int64 [B], only of a system that `writes_alone`; None: all w. Rows
        of none stay as they are.
        """
        if self.writes_alone:
            ended = torch.ones_like(state.segments) if lengths is None else lengths
            record = SegmentRecord(segment, ended > 0, lengths)
        else:
            encoded = self.encode_one(segment, None)
            found = self.read_segment(segment, state, None, encoded, closing=True)[2]
            assert found is not None and lengths is None
            record = found
        return replace(self.update(state, record), ages=None)

    def step(
        self,
        segment: Tensor,
        state: MemoryState,
        lengths: Tensor | None = None,
        encoded: Tensor | None = None,
    ) -> StepOutput:
        """Read one segment; see `StreamingLM.step`."""
        if encoded is None:
            encoded = self.encode_one(segment, lengths)
        hidden, layout, record = self.read_segment(segment, state, lengths, encoded)
        if record is not None:
            state = replace(self.update(state, record), ages=None)
        return StepOutput(hidden, state, layout.recall, layout.query)

    def append(self, memory: Memory, ids: Tensor) -> Tensor | None:
        """More tokens of the open segments, on their KV cache; see `StreamingLM.append`."""
        return decoding.append(self, memory, ids)

    # -- other engines --------------------------------------------------------------------------------------

    def prompt_embeddings(self, memory: Memory, input_ids: Any) -> list[Tensor]:
        """What stands before the next token, [n, d] of each row: a prompt for an engine without memories.

        The backbone (`export_backbone`) behind it gives what this model gives, until the open segment is
        full: for L - open tokens. `input_ids`, int64 [B, T], are read on top of the memory, which stays as it
        is. ValueError for a system that is more than vectors in front of tokens (ARMT, Transformer-XL, the
        query "inline"), and where the tokens end a segment.
        """
        return exporting.prompt_embeddings(self, memory, input_ids)

    def export_backbone(self, folder: Any, tokenizer: Any = None) -> None:
        """Save the backbone alone, with its adapters merged, as a plain model that any engine loads.

        ValueError for a folder that holds something, and for quantised weights.
        """
        exporting.export_backbone(self, folder, tokenizer)

    # -- lengths, all of them from the layout ---------------------------------------------------------------

    @torch.no_grad()
    def _layout_of(self, age: int) -> tuple[Layout, MemoryState]:
        """How a segment of one stream that has read so many segments begins, and the stream's state."""
        memory = self.new_memory(1)
        state, encoded = memory.state.aged(age, age), None
        with bb.evaluating(self):
            if self.lookahead:
                encoded = self.encode_one(memory.open_ids[:, :1], memory.open_lengths + 1)
            return self.layout(state, encoded), state

    @torch.no_grad()
    def _laid_out(self, age: int) -> list[Any]:
        """All parts of a segment of one stream that has read so many segments."""
        layout, state = self._layout_of(age)
        parts = list(layout.parts)
        with bb.evaluating(self):
            while parts and isinstance(parts[-1], Probe):
                probe = parts[-1]
                answer = torch.zeros_like(probe.vectors[:, -1])
                parts += probe.then(state, answer, state.segments >= 0).parts
        return parts

    def _around(self, age: int) -> int:
        widths = 0
        for part in self._laid_out(age):
            if isinstance(part, Ids):
                widths += part.width
            elif not isinstance(part, Tokens):
                widths += part.vectors.shape[1]
        return widths

    def positions_around(self) -> int:
        """Positions that a segment takes beside its new tokens, at most."""
        return self._around(_FOREVER)

    def settles_after(self) -> int | None:
        """Segments after which a layout no longer grows; None where that is not found."""
        most = self.positions_around()
        return next(
            (age for age in range(most // self.segment_length + 3) if self._around(age) == most), None
        )

    @property
    def tokens_read_again(self) -> int:
        """Raw tokens of what was read before that a segment is read with, at most."""
        return sum(part.width for part in self._laid_out(_FOREVER) if isinstance(part, Ids))

    @cached_property
    def tokens_before(self) -> int:  # type: ignore[override]
        """Raw tokens of the segment before that stand in front of a segment's own, at most."""
        parts = self._laid_out(0)
        first = next(index for index, part in enumerate(parts) if isinstance(part, Tokens))
        before = parts[first - 1] if first else None
        return before.width if isinstance(before, Ids) else 0

    def passes(self) -> list[int]:
        """Positions of the passes through the backbone that one segment takes."""
        return [self.segment_length + self.positions_around()]

    def flops_per_segment(self) -> int:
        """Operations of the backbone for one segment of one stream; systems add their own."""
        return segment_flops(self.backbone, self.passes())

    # -- compiling ------------------------------------------------------------------------------------------

    def compile_steps(self, mode: str | None = "auto", **options: Any) -> None:
        """Compile reading, and the backbone's pass over a whole segment in training.

        One step of reading becomes one graph; tails of a text are not compiled, and batches are filled up
        to the next power of two, so that neither compiles anything again. What cannot be compiled runs as
        before, with a warning.

        Args:
            mode, options: of `torch.compile`; "auto" records CUDA graphs on a GPU.
        """
        self.compiled = CompiledSteps(self, mode, options)
