"""SegmentMemoryModel: reading, training and generating over any length, written once for every system.

A system is a pure recurrence over segments. It says what stands around the new tokens of a segment (`frame`)
and what the segment leaves behind (`absorb`); this driver cuts the text, runs the backbone, shifts labels,
sums the loss over tokens, truncates gradients, replays, and keeps the open segment.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, Cache, PreTrainedModel
from transformers import initialization as init
from typing_extensions import Self

from hmt import backbone as bb
from hmt.config import MemoryConfig
from hmt.memory.memory import Memory
from hmt.memory.state import MemoryState
from hmt.model import inputs
from hmt.model.asking import ask_inside
from hmt.model.checkpoint import BackboneWrapper
from hmt.model.compiling import CompiledSteps, CompileMixin
from hmt.model.decoding import append, can_append
from hmt.model.generation import MemoryGenerationMixin
from hmt.model.keeper import KeeperMixin
from hmt.model.layout import Frame, assemble, read_out
from hmt.model.losses import token_loss
from hmt.model.outputs import MemoryOutput, StepOutput
from hmt.model.reading import ReadingMixin
from hmt.model.recall_loss import in_batch, own_bank
from hmt.model.retrieval import Retrieval
from hmt.model.segments import Grid, make_grid, shift_labels


class SegmentMemoryModel(BackboneWrapper, KeeperMixin, ReadingMixin, CompileMixin, MemoryGenerationMixin):
    """Base of all systems. A subclass defines `initial_state`, `prepare`, `frame` and `absorb`."""

    config_class = MemoryConfig
    config: Any
    base_model_prefix = "backbone"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _is_stateful = True  # a memory cannot be rolled back: refuses assisted decoding
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _supports_context_parallel = False  # segments are sequential

    # Which of the two hooks reads what `prepare` returns; spares the other one the work while decoding.
    frame_reads_prepared = False
    absorb_reads_prepared = False
    # Whether frames hold a question that is answered in the middle of a segment.
    asks_inside = False
    # Fields of the config that say how much is kept and decide the shape of no weight, see `resized`.
    sizes: tuple[str, ...] = ()

    def __init__(self, config: MemoryConfig, backbone: PreTrainedModel | None = None):
        if config.memory_scale == "embedding":
            if backbone is None:
                raise ValueError('memory_scale="embedding" is measured: build with from_backbone')
            config.memory_scale = bb.input_scale(backbone)
        super().__init__(config)
        if backbone is None:
            backbone = AutoModelForCausalLM.from_config(config.text_config)
            bb.check_backbone(backbone)
        else:
            parts: list[Any] = [*backbone.modules(), *backbone.parameters()]
            for part in parts:
                part._is_hf_initialized = True  # post_init must not initialise trained weights again
        self.backbone = backbone
        self.compiled: CompiledSteps | None = None  # see `compile_steps`
        self.add_modules(bb.embedding_table(backbone).embedding_dim)
        self.post_init()

    # -- what a system declares -----------------------------------------------------------------------------

    @property
    def lookahead(self) -> int:
        """Own tokens that the context of a segment may contain before they are scored; 0: strictly causal.

        Fair scores count only tokens from this position of a segment on, or feed those before it one by one.
        """
        return 0

    @property
    def horizon(self) -> int | None:
        """Segments of history that can matter to a prediction; None where there is no such bound."""
        return None

    @property
    def retrieval(self) -> Retrieval | None:
        """What the slots of the system hold and how a query scores them; None where nothing is retrieved."""
        return None

    def passes(self) -> list[int]:
        """Positions of the passes through the backbone that one segment takes."""
        return [self.config.segment_length + self.positions_around()]

    def at_budget(self, nbytes: int) -> Self:
        """The same system, all weights shared, as large as fits into so many bytes per stream.

        A system whose state has one size returns itself. ValueError where not even the smallest fits.
        """
        return self

    def resized(self, **fields) -> Self:
        """The same model with other values of fields that no weight depends on (`memory_size`): weights are
        shared, the config is its own, and memories belong to the one that made them.

        ValueError for a field that the system does not have or that decides the shape of weights.
        """
        for name in fields:
            if name not in self.sizes:
                known = ", ".join(self.sizes) or "none"
                raise ValueError(
                    f"{name} of a {self.config.model_type} cannot be changed; fields that can: {known}"
                )
        config = copy.copy(self.config)
        for name, value in fields.items():
            setattr(config, name, value)
        config.check()
        twin = copy.copy(self)
        twin.config = config
        twin.compiled = None  # compiled functions run the model they were made from
        return twin

    # -- what a system defines ------------------------------------------------------------------------------

    def add_modules(self, width: int) -> None:
        """Create the system's own modules; `width` is d, the width of embeddings and memory vectors."""

    def _init_weights(self, module) -> None:
        """Systems with modules of other kinds extend this."""
        if isinstance(module, bb.Vectors):
            init.normal_(module.weight, 0.0, getattr(self.config.text_config, "initializer_range", 0.02))

    def initial_state(self, batch_size: int) -> MemoryState:
        """The state of streams that have read nothing."""
        raise NotImplementedError  # pragma: no cover - abstract

    def prepare(self, segments: Tensor, lengths: Tensor | None) -> Tensor | None:
        """What depends on the tokens of each segment alone, for many segments in one pass.

        segments int64 [B, S, w], lengths int64 [B, S] (None: all w) -> [B, S, ...], or None when the system
        needs nothing.
        """
        return None

    def frame(self, state: MemoryState, prepared: Tensor | None) -> Frame:
        """The vectors and raw tokens around the next segment."""
        raise NotImplementedError  # pragma: no cover - abstract

    def answer(self, state: MemoryState, frame: Frame, question: Tensor, asked: Tensor) -> Frame:
        """The frame, completed with what stands after its `ask`, whose outputs are `question` [B, d].

        asked: bool [B], False in rows whose segment ends before the question: nothing is known of them.
        """
        raise NotImplementedError  # pragma: no cover - only systems that ask are asked

    def absorb(
        self, state: MemoryState, outputs: Tensor, segment: Tensor, full: Tensor, prepared: Tensor | None
    ) -> MemoryState:
        """The state after a segment; rows where `full` (bool [B]) is False must keep theirs.

        outputs: [B, m', d], the backbone's outputs at the suffix. segment: int64 [B, L].
        """
        raise NotImplementedError  # pragma: no cover - abstract

    def settled(self, open_lengths: Tensor) -> Tensor:
        """bool [B]: True where one more token cannot change the frame of the open segment: its KV is kept."""
        return torch.ones_like(open_lengths, dtype=torch.bool)

    # -- one segment --------------------------------------------------------------------------------------

    def embed(self, ids: Tensor) -> Tensor:
        """Token embeddings [..., d], by calling the module: families that scale do it there."""
        return self.backbone.get_input_embeddings()(ids)

    def hidden(self, embeddings: Tensor) -> Tensor:
        """The backbone's outputs [B, T, d] of vectors [B, T, d]."""
        if (
            self.compiled
            and embeddings.shape[1] in self.compiled.lengths
            and not torch.compiler.is_compiling()
        ):
            return self.compiled.hidden(embeddings)
        return bb.last_hidden(self.backbone, embeddings)[0]

    def step(
        self,
        segment: Tensor,
        state: MemoryState,
        lengths: Tensor | None = None,
        prepared: Tensor | None = None,
        seen: int | None = None,
    ) -> StepOutput:
        """Read one segment. Pure: nothing but the return value changes.

        Args:
            segment: int64 [B, w], w <= L. lengths: int64 [B] real tokens per row; None means all w.
            prepared: this segment's slice of `prepare`; computed here when it is None.
            seen: raw tokens to read again, where they are known to be as many in every row: no padding then.
        A row becomes memory only when it holds all L tokens; the others keep their state.
        """
        if prepared is None:
            prepared = self.prepare_one(segment, lengths)
        frame = self.frame(state, prepared)
        # one lookup: the backward pass of each fills a gradient as large as the whole table
        both = self.embed(torch.cat([frame.sensory, segment], dim=1))
        raw, tokens = both.split([frame.sensory.shape[1], segment.shape[1]], dim=1)
        if frame.ask is None:
            # what a row holds beyond its length changes nothing before it, and is not absorbed
            hidden = self.hidden(assemble(frame, raw, tokens, None, seen))
            hidden, outputs = read_out(hidden, frame, segment.shape[1], None, seen)
        else:
            hidden, outputs, frame = ask_inside(self, state, frame, raw, tokens, lengths, seen)
        full_length = self.config.segment_length
        if segment.shape[1] == full_length:
            full = (
                torch.ones_like(state.segments, dtype=torch.bool)
                if lengths is None
                else lengths == full_length
            )
            state = self.absorb(state, outputs, segment, full, prepared)
        return StepOutput(hidden, state, frame.recall, frame.query)

    @torch.no_grad()
    def positions_around(self) -> int:
        """Positions that a frame takes beside the new tokens; 0 where `step` is replaced: no frame then."""
        if type(self).step is not SegmentMemoryModel.step:
            return 0
        memory = self.new_memory(1)
        with bb.evaluating(self):
            prepared = self.prepare_one(memory.open_ids[:, :1], memory.open_lengths + 1)
            frame = self.frame(memory.state, prepared)
        # the question and its answer, which stands at the end as well
        inside = 0 if frame.ask is None else frame.ask.shape[1] + frame.suffix.shape[1]
        return frame.prefix.shape[1] + frame.sensory.shape[1] + frame.suffix.shape[1] + inside

    def pass_lengths(self) -> set[int]:
        """Positions of the passes that a long text takes again and again: of whole segments."""
        return set(self.passes())

    def prepare_one(self, segment: Tensor, lengths: Tensor | None) -> Tensor | None:
        prepared = self.prepare(segment[:, None], None if lengths is None else lengths[:, None])
        return None if prepared is None else prepared[:, 0]

    def run(
        self,
        grid: Grid,
        state: MemoryState,
        *,
        bptt_depth: int | None = None,
        replay: bool = False,
        chunk: int | None = None,
        after: Callable[[int, StepOutput], StepOutput] | None = None,
    ) -> Iterator[tuple[int, StepOutput]]:
        """Step over the segments of a grid, yielding (index, output).

        Args:
            bptt_depth: detach the state after every so many segments; None lets gradients flow through all.
            replay: recompute each step in the backward pass instead of storing it.
            chunk: segments whose `prepare` runs in one batch; None means all. With replay, where that pass is
                recomputed and must not need much more memory than a step, None means two, or 512 tokens.
            after: applied to every output, with the index of its segment. It belongs to what is replayed: a
                score that it puts in the place of the hidden states is all that is stored of them.
        """
        training = torch.is_grad_enabled()
        call = checkpointed if replay and training else plainly
        if chunk is None:
            few = max(2, 512 // (grid.ids.shape[0] * grid.segment_length))
            chunk = few if call is checkpointed else grid.num_segments
        youngest, oldest = torch.stack([*state.segments.aminmax()]).tolist()
        if training:
            state = state.recording(fresh=oldest == 0)
        for start in range(0, grid.num_segments, chunk):
            stop = min(start + chunk, grid.num_segments)
            queue = self._prepare_parts(grid, start, stop, call)
            for index in range(start, stop):
                if bptt_depth and index and index % bptt_depth == 0:
                    state = state.detach()
                ids, lengths = grid.segment(index)
                seen = self.known_raw_tokens(youngest + index, oldest + index)
                output = call(self._step_and, after, index, ids, state, lengths, queue[index - start], seen)
                state = output.state
                yield index, output

    def _step_and(self, after, index: int, *args) -> StepOutput:
        output = self.step(*args)
        return output if after is None else after(index, output)

    def known_raw_tokens(self, youngest: int, oldest: int) -> int | None:
        """How many raw tokens are read again, if it is the same for streams of these ages (in segments)."""
        most = self.config.raw_tokens
        least, full = (min(most, age * self.config.segment_length) for age in (youngest, oldest))
        return least if least == full else None

    def _prepare_parts(self, grid: Grid, start: int, stop: int, call) -> list:
        parts = [grid.segment(index) for index in range(start, stop)]
        width = max(ids.shape[1] for ids, _ in parts)
        ids = torch.stack([torch.nn.functional.pad(i, (0, width - i.shape[1])) for i, _ in parts], dim=1)
        full = all(lengths is None and i.shape[1] == width for i, lengths in parts)
        lengths = None if full else torch.stack([grid.lengths_of(i) for i in range(start, stop)], dim=1)
        prepared = call(self.prepare, ids, lengths)
        return [None] * len(parts) if prepared is None else list(prepared.unbind(1))

    # -- any length ---------------------------------------------------------------------------------------

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor | None = None,
        recall_targets: Tensor | None = None,
        recall_loss_weight: float = 0.0,
        recall_negatives: bool = False,
        bptt_depth: int | None = None,
        replay: bool = False,
        chunk: int | None = None,
        output_recall: bool = False,
        inputs_embeds: Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs,
    ) -> MemoryOutput | tuple:
        """Read new tokens, of any length, on top of a memory.

        Args:
            input_ids: int64 [B, T], only tokens the memory has not seen.
            attention_mask: [B, T] (or longer: the last T columns count), 0 at padding, which may stand
                anywhere.
            labels: int64 [B, T] aligned with `input_ids`, -100 where not scored. The loss is the sum over all
                scored tokens of all segments divided by their number (`num_items_in_batch`, if the Trainer
                passes it).
            past_key_values: a `Memory`; None starts new streams.
            use_cache: return a `Memory` (default: yes, unless training or scoring labels without one).
            logits_to_keep: as in transformers: 0 or None all, n the last n columns, or a 1-D index tensor.
                When training with labels and this is None, no logits are returned (they would not fit for
                long samples).
            recall_targets: int64 [B, S], for each segment of the call the (absolute) segment its recall
                should point at, -100 for none.
            recall_loss_weight: weight of the recall loss in `loss`.
            recall_negatives: let the memory embeddings of the other streams of the batch join the recall loss
                as wrong answers, so that recall learns to be sharp among many segments from samples of few.
            bptt_depth, replay, chunk: see `run`.
            output_recall: return recall weights.
        Returns a `MemoryOutput`. At a masked column the logits are those of the last real token before it.
        """
        if inputs_embeds is not None:
            raise ValueError(
                "pass input_ids: sensory memory keeps raw tokens, so inputs_embeds cannot be read"
            )
        inputs.check_keywords(kwargs, self.forward)
        input_ids = inputs.check_ids(input_ids)
        mask = inputs.check_mask(attention_mask, input_ids)
        inputs.check_training(input_ids, labels, recall_targets, bptt_depth, chunk)
        batch, width = input_ids.shape
        given = past_key_values is not None
        memory = self.memory_for(past_key_values, batch)
        if use_cache is None:
            use_cache = given or not (self.training or labels is not None)
        columns = inputs.kept_columns(logits_to_keep, width).to(input_ids.device)
        plain = labels is None and recall_targets is None and not output_recall
        if use_cache and plain and can_append(self, memory, input_ids, mask):
            if (
                width > 1 or input_ids.device.type == "cpu"
            ):  # elsewhere it would wait for the device at every token
                inputs.check_vocabulary(input_ids, self.config.vocab_size)
            wanted = append(self, memory, input_ids).index_select(1, columns)
            memory.columns_fed += width
            return self._output(return_dict, logits=bb.head(self.backbone, wanted), past_key_values=memory)

        grid = self._grid(input_ids, mask, memory, fresh=not given)
        targets = None if labels is None else shift_labels(grid, labels, mask)
        count: Any = kwargs.get("num_items_in_batch")
        if targets is not None and count is None:
            count = (targets != -100).sum().clamp(min=1)
        keeping = logits_to_keep is not None or not self.training or labels is None
        recalling = recall_targets is not None or output_recall
        # Losses of single segments are what replay needs; else the hidden states are there at the end anyway,
        # and a fused kernel then keeps one gradient of the head instead of one per segment.
        each = replay or not torch.is_grad_enabled()
        stored = keeping or (targets is not None and not each)
        score = partial(token_loss, self.backbone, count=count, loss_function=self.loss_function)

        def only_what_is_used(index: int, out: StepOutput) -> StepOutput:
            if targets is not None and each:
                start = index * grid.segment_length
                out.loss = score(out.hidden, targets[:, start : start + out.hidden.shape[1]])
            return replace(
                out,
                # not a slice, which would keep the whole
                hidden=out.hidden if stored else out.hidden.new_zeros(0),
                recall=out.recall if recalling else None,
                query=out.query if recall_negatives else None,
            )

        state, kept, losses, recalls, queries = memory.state, [], [], [], []
        run = partial(self.run, bptt_depth=bptt_depth, replay=replay, chunk=chunk, after=only_what_is_used)
        for _, out in run(grid, state):
            state = out.state
            kept.append(out.hidden)
            if out.loss is not None:
                losses.append(out.loss)
            if out.recall is not None:
                recalls.append(out.recall)
            if out.query is not None:
                queries.append(out.query)
        state = state.consolidated()

        stream = torch.cat(kept, dim=1) if stored else None
        loss = torch.stack(losses).sum() if losses else None
        if targets is not None and stream is not None and not each:
            loss = score(stream, targets[:, : stream.shape[1]])
        logits = None
        if keeping:
            assert stream is not None
            at = grid.positions.index_select(1, columns).clamp(min=0)
            wanted = stream.gather(1, at.unsqueeze(-1).expand(-1, -1, stream.shape[-1]))
            logits = bb.head(self.backbone, wanted)

        recall = torch.stack(recalls, dim=1) if recalls else None
        recall_loss = None
        if recall_targets is not None and recall is not None:
            recall_loss = self._recall_loss(
                recall, queries if recall_negatives else None, recall_targets, memory.state, state, grid
            )
            if loss is not None and recall_loss_weight:
                loss = loss + recall_loss_weight * recall_loss
        if use_cache:
            self._advance(memory, state, grid, width)
        return self._output(
            return_dict,
            loss=loss,
            logits=logits,
            past_key_values=memory if use_cache else None,
            recall=recall.exp() if output_recall and recall is not None else None,
            recall_loss=recall_loss,
        )

    # -- pieces of forward --------------------------------------------------------------------------------

    def _grid(self, ids: Tensor, mask: Tensor | None, memory: Memory, fresh: bool) -> Grid:
        grid = make_grid(ids, mask, memory.open_ids, memory.open_lengths, self.config.segment_length)
        inputs.check_vocabulary(grid.ids, self.config.vocab_size)
        if fresh and grid.shortest == 0:
            inputs.check_rows(grid.lengths.tolist())
        return grid

    def _advance(self, memory: Memory, state: MemoryState, grid: Grid, columns: int) -> None:
        memory.state = state
        memory.open_ids, memory.open_lengths = grid.tail()
        memory.kv = None
        memory.columns_fed += columns

    def _recall_loss(
        self,
        recall: Tensor,
        queries: list[Tensor] | None,
        targets: Tensor,
        before: MemoryState,
        after: MemoryState,
        grid: Grid,
    ) -> Tensor:
        """queries: for a loss over the banks of the whole batch; None for one over each stream's own."""
        now = before.segments[:, None] + torch.arange(recall.shape[1], device=recall.device)
        assert self.retrieval is not None  # a system that recalls knows what its slots hold
        held = self.retrieval.held(now.flatten() if queries is None else after.segments)
        if queries is None:
            return own_bank(recall, targets, held.view(*now.shape, -1), grid.lengths, grid.segment_length)
        scores = self.retrieval.scores(torch.stack(queries, dim=1), after)
        return in_batch(scores, targets, held, now, grid.lengths, grid.segment_length)

    @staticmethod
    def _output(return_dict: bool | None, **fields) -> MemoryOutput | tuple:
        output = MemoryOutput(**fields)
        return output.to_tuple() if return_dict is False else output


def plainly(function, *args):
    return function(*args)


def checkpointed(function, *args):
    return checkpoint(function, *args, use_reentrant=False)
