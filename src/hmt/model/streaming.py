"""StreamingLM: reading, training and generating over any length, written once for every system.

A system is a pure recurrence over segments: `initial_state` and `step`. This driver cuts the text, shifts
labels, sums the loss over tokens, truncates gradients, replays, and keeps the open segment.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.utils import logging
from typing_extensions import Self

from hmt.memory.identity import LiveIdentity
from hmt.memory.memory import Memory, adopt
from hmt.memory.state import MemoryState
from hmt.model import asking, calling, reading, recalling, running
from hmt.model.body import MemoryBody
from hmt.model.generation import MemoryGenerationMixin
from hmt.model.outputs import MemoryOutput, StepOutput
from hmt.model.protocol import Progress
from hmt.model.recalling import Passage
from hmt.model.retrieval import Retrieval
from hmt.model.segments import Grid

logger = logging.get_logger(__name__)


class StreamingLM(PreTrainedModel, MemoryGenerationMixin):
    """What reading, generation, evaluation, benches and servers may ask of a model with memory.

    A subclass defines `initial_state`, `step` and `head`, and whatever it declares below. Systems around a
    Hugging Face model extend `BackboneMemory`, which makes `step` and `append` from what stands in a segment.
    """

    config: Any
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _is_stateful = True  # a memory cannot be rolled back: refuses assisted decoding
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _supports_context_parallel = False  # segments are sequential

    # -- what a system declares -----------------------------------------------------------------------------

    #: Fields of the config that say how much is kept and decide the shape of no weight, see `resized`.
    sizes: ClassVar[tuple[str, ...]] = ()
    #: Fields of the config that every stage of training sets to its own of the same name (`recall`).
    stage_fields: ClassVar[tuple[str, ...]] = ()
    #: What the system cannot do ("train", ...), each with the reason, see `require`.
    cannot: ClassVar[Mapping[str, str]] = {}
    #: Least and most of integers in the state that are no token ids, by tensor; `segments` needs none.
    state_limits: ClassVar[Mapping[str, tuple[int, int]]] = {}
    #: Compiled functions, of systems that have `compile_steps`.
    compiled: Any = None

    @property
    def segment_length(self) -> int:
        """New tokens that are read in one step, L."""
        return self.config.segment_length

    @property
    def lookahead(self) -> int:
        """Own tokens that the context of a segment may contain before they are scored; 0: strictly causal.

        Fair scores count only tokens from this position of a segment on, or feed those before it one by one.
        What `encode` gives of a segment depends on so many of its first tokens (and of none, where it is 0,
        before the segment is closed).
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

    @property
    def tokens_read_again(self) -> int:
        """Raw tokens of what was read before that a segment is read with."""
        return 0

    @property
    def tokens_before(self) -> int:
        """Raw tokens of the segment before that stand in front of a segment's own."""
        return 0

    def passes(self) -> list[int]:
        """Positions of the passes that one segment takes."""
        return [self.segment_length]

    @property
    def writes_alone(self) -> bool:
        """Whether what a segment leaves behind depends on its tokens alone, see `write`.

        Such a segment needs no pass of its own where nothing is predicted in it and nobody asks.
        """
        return False

    @property
    def closes_early(self) -> bool:
        """Whether segments may be shorter than L (`flush`, `close`); the state then counts `tokens`."""
        return False

    @property
    def forgets(self) -> bool:
        """Whether single segments can be taken out of a memory again, see `without`."""
        return False

    def reading_passes(self) -> list[int]:
        """Positions of the passes of a segment in which nothing is predicted."""
        return self.passes()

    def flops_per_segment(self) -> int:
        """Operations of one segment of one stream, forward, without head. ValueError where it is not said."""
        raise ValueError(f"{type(self).__name__} does not say how many operations a segment takes")

    def at_budget(self, nbytes: int) -> Self:
        """The same system, all weights shared, as large as fits into so many bytes per stream.

        A system whose state has one size returns itself. ValueError where not even the smallest fits.
        """
        return self

    def resized(self, **fields: Any) -> Self:
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
        twin.__dict__.pop("base_model", None)  # and so does its body
        return twin

    def largest_within(self, nbytes: int) -> Self:
        """The same model with its first size as large as fits into so many bytes per stream.

        For `at_budget` of systems whose bytes grow evenly with it. ValueError where not even 1 fits.
        """
        field = self.sizes[0]
        least, more = (self.resized(**{field: size}).new_memory(1).nbytes for size in (1, 2))
        if nbytes < least:
            raise ValueError(
                f"{self.config.model_type} cannot work in {nbytes:,} bytes: with {field}=1 it carries "
                f"{least:,}"
            )
        return self.resized(**{field: 1 + (nbytes - least) // (more - least)})

    @cached_property
    def base_model(self) -> MemoryBody:  # type: ignore[override]
        """The model without its head: ids in, `last_hidden_state` [B, T, d] out, read with memory."""
        return MemoryBody(self)

    def require(self, what: str) -> None:
        """ValueError, with the reason, where the system declares that it cannot do `what`."""
        if what in self.cannot:
            raise ValueError(f"{self.config.model_type} cannot {what}: {self.cannot[what]}")

    # -- what a system defines ------------------------------------------------------------------------------

    def initial_state(self, batch_size: int) -> MemoryState:
        """The state of streams that have read nothing: tensors that nothing else refers to."""
        raise TypeError(f"{type(self).__name__} defines no initial_state")  # pragma: no cover - abstract

    def encode(self, segments: Tensor, lengths: Tensor | None) -> Tensor | None:
        """What depends on the tokens of each segment alone, for many segments in one pass; see `lookahead`.

        segments int64 [B, S, w], lengths int64 [B, S] (None: all w) -> [B, S, ...], or None when the system
        needs nothing.
        """
        return None

    def write(self, segments: Tensor, lengths: Tensor | None) -> Tensor | None:
        """What whole segments leave behind that depends on their tokens alone, many in one pass.

        As `encode`; None for a system of which nothing does.
        """
        return None

    def pass_over(
        self,
        segment: Tensor,
        state: MemoryState,
        lengths: Tensor | None,
        written: Tensor | None,
        ended: Tensor | None = None,
    ) -> StepOutput:
        """What `step` gives of a segment of which only the next state is asked, with outputs of zero.

        Only of a system that `writes_alone`. Arguments as of `step`; written: its slice of `write`; ended:
        bool [B], rows whose segment is closed however short it is.
        """
        raise TypeError(f"{type(self).__name__} needs a segment's pass")  # pragma: no cover - abstract

    def close(self, segment: Tensor, state: MemoryState, lengths: Tensor | None = None) -> MemoryState:
        """The state after a segment int64 [B, w], w <= L, that ends here.

        lengths: real tokens of each row, int64 [B]; None: all w. Rows of none stay as they are.
        """
        raise ValueError(f"a {self.config.model_type} as configured here cannot close a segment early")

    def step(
        self,
        segment: Tensor,
        state: MemoryState,
        lengths: Tensor | None = None,
        encoded: Tensor | None = None,
    ) -> StepOutput:
        """Read one segment. Pure: nothing but the return value changes.

        Args:
            segment: int64 [B, w], w <= L. lengths: int64 [B] real tokens per row; None means all w.
            encoded: this segment's slice of `encode`; computed here when it is None.
        A row becomes memory only when it holds all L tokens; the others keep their state.
        """
        raise TypeError(f"{type(self).__name__} defines no step")  # pragma: no cover - abstract

    def append(self, memory: Memory, ids: Tensor) -> Tensor | None:
        """Outputs [B, T, d] at more tokens int64 [B, T] of the open segments, advancing `memory` in place.

        None where that cannot be: then the open segment is run again with the new tokens, which is always
        right.
        """
        return None

    def system_weights(self) -> list[torch.nn.Parameter]:
        """The trained weights that a call can do without, as those of recall where nothing was read yet.

        In training all of them take part in every call, those that were not needed with gradients of zero:
        what trains a model on several devices wants a gradient of each.
        """
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of outputs [..., d]."""
        output = self.get_output_embeddings()
        assert output is not None
        return output(hidden)

    def token_loss(self, hidden: Tensor, goal: Tensor, count: Tensor | int) -> Tensor:
        """Sum of cross-entropies of outputs [B, w, d] against goal int64 [B, w] (-100: none), over count."""
        logits = self.head(hidden)
        return self.loss_function(
            logits=logits,
            labels=None,
            vocab_size=logits.shape[-1],
            num_items_in_batch=count,
            shift_labels=goal.contiguous(),
        )

    # -- memories -------------------------------------------------------------------------------------------

    def new_memory(self, batch_size: int) -> Memory:
        """The memory of streams that have read nothing."""
        ids = torch.zeros(batch_size, self.segment_length, dtype=torch.long, device=self.input_device)
        lengths = torch.zeros(batch_size, dtype=torch.long, device=self.input_device)
        return Memory(self.initial_state(batch_size), ids, lengths, self.identity())

    @property
    def input_device(self) -> torch.device:
        """Where token ids are looked up."""
        return self.device

    def identity(self) -> LiveIdentity:
        """What ties a memory to this model. The fingerprint is only computed when somebody saves or loads."""
        return LiveIdentity(self)

    def adopt(self, memory: Memory, source: Any = "the memory") -> Memory:
        """Check that `memory` was made by this model, and move it to its device. ValueError if it was not,
        and for what no memory of this model can hold."""
        fresh, vocabulary = self.initial_state(1), self.config.vocab_size
        return adopt(memory, self.identity(), fresh, self.input_device, source, vocabulary, self.state_limits)

    def memory_for(self, cache: Any, batch: int) -> Memory:
        """`cache` as a memory of `batch` streams; a new one for None or an empty cache; else ValueError."""
        if isinstance(cache, Memory):
            if cache.batch_size != batch:
                raise ValueError(f"the memory holds {cache.batch_size} streams and the input {batch} rows")
            mine = isinstance(cache.identity, LiveIdentity) and cache.identity.owner is self
            return cache if mine else self.adopt(cache)
        if cache is not None and (not isinstance(cache, Cache) or cache.get_seq_length() > 0):
            kind = ("filled " if isinstance(cache, Cache) else "") + type(cache).__name__
            raise ValueError(f"past_key_values must be a hmt Memory made by this model, not a {kind}")
        return self.new_memory(batch)

    # -- reading --------------------------------------------------------------------------------------------

    @torch.no_grad()
    def read(
        self,
        input_ids: Any,
        attention_mask: Tensor | None = None,
        memory: Memory | None = None,
        *,
        chunk: int = 8,
        progress: Progress | None = None,
    ) -> Memory:
        """Read text into a memory: no logits, constant memory, any length.

        Args:
            input_ids: int64 [B, T], [T] or a list of ids. attention_mask: as in `forward`.
            memory: what to add to; left untouched. None starts new streams.
            chunk: segments that are encoded in one batch (more is faster and takes more memory).
            progress: called as progress(tokens_done) after each segment, of all streams together.
        Returns a new `Memory`. ValueError for ids that are none of this model, and for rows of padding.
        """
        return reading.read(self, input_ids, attention_mask, memory, chunk, progress)

    def read_many(
        self,
        documents: Iterable,
        *,
        batch_size: int = 8,
        chunk: int = 8,
        progress: Progress | None = None,
    ) -> Iterator[tuple[int, Memory]]:
        """Read many documents, `batch_size` at a time, into one memory each.

        Args:
            documents: sequences of ids (int64 [T] or lists), taken only when there is a free place.
            progress: called as progress(tokens_done), of all documents together.
        Yields (index, memory of one stream) as documents end: the short ones first. ValueError as of `read`,
        and for a document that is a batch.
        """
        return reading.read_many(self, documents, batch_size, chunk, progress)

    def run(
        self,
        grid: Grid,
        state: MemoryState,
        *,
        bptt_depth: int | None = None,
        replay: bool = False,
        chunk: int | None = None,
        after: Callable[[int, StepOutput], StepOutput] | None = None,
        asked: Callable[[int], bool] = lambda index: True,
    ) -> Iterator[tuple[int, StepOutput]]:
        """Step over the segments of a grid, yielding (index, output); see `hmt.model.running.run`."""
        return running.run(
            self, grid, state, bptt_depth=bptt_depth, replay=replay, chunk=chunk, after=after, asked=asked
        )

    @torch.no_grad()
    def flush(self, memory: Memory) -> Memory:
        """A memory whose open segments are closed, shorter than others, so that what comes next begins one.

        So a question stands at the head of a segment, and what was read last can be recalled. The memory
        that is given stays as it is; streams without an open segment too. ValueError for a system that
        cannot close a segment early.
        """
        raise ValueError(
            f"a {self.config.model_type} as configured here cannot close a segment early: it takes all of "
            "its segments for whole (an HMT with passages can)"
        )

    def without(self, memory: Memory, segments: Iterable[int]) -> Memory:
        """The memory of one stream that never read these segments, counted as in `recalled`.

        It is that of a stream that read the other segments it holds, and nothing else: they keep their order
        and are numbered from 0, and neither embedding nor tokens of what was taken out are left. The memory
        that is given stays as it is. ValueError for a system in which what a segment leaves behind depends on
        those before it (`forgets`), for several streams, and for segments that are not held.
        """
        raise ValueError(
            f"a {self.config.model_type} as configured here cannot take segments out of a memory: what they "
            "left in it is in what came later, too; read the other texts again"
        )

    def recalled(self, memory: Memory, top: int = 4) -> list[list[Passage]]:
        """What the streams of a memory would recall now, by weight, at most `top` of each.

        What it is recalled for is what the system asks with: of an HMT with `recall_query="previous"` the
        segment that was closed last, so `flush` a question that was read. ValueError for a system that
        chooses nothing.
        """
        return recalling.recalled(self, memory, top)

    def recalled_for(self, memory: Memory, text: str, tokenizer: Any = None, top: int = 4) -> list[Passage]:
        """What one stream would recall for a text, with the words of the passages; see `Memory.recall`."""
        return asking.recall_text(self, memory, text, tokenizer, top)

    def remembered(self, memory: Memory, row: int, slots: list[int]) -> list[list[int] | None]:
        """The tokens that slots of a stream hold; None of systems that keep none."""
        return [None] * len(slots)

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
        segment_ends: Tensor | None = None,
        bptt_depth: int | None = None,
        replay: bool = False,
        chunk: int | None = None,
        output_recall: bool = False,
        output_last_hidden_state: bool = False,
        inputs_embeds: Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> MemoryOutput | tuple:
        """Read new tokens, of any length, on top of a memory.

        Args:
            input_ids: int64 [B, T], only tokens the memory has not seen.
            attention_mask: [B, T] (or longer: the last T columns count), 0 at padding, which may stand
                anywhere.
            labels: int64 [B, T] aligned with `input_ids`, -100 where not scored. The loss is the sum over all
                scored tokens of all segments divided by their number (`num_items_in_batch`, if the Trainer
                passes it).
            past_key_values: a `Memory`, advanced in place; None starts new streams.
            use_cache: return a `Memory` (default: yes, unless training or scoring labels without one).
            logits_to_keep: as in transformers: 0 or None all, n the last n columns, or a 1-D index tensor.
                When training with labels and this is None, no logits are returned (they would not fit for
                long samples).
            recall_targets: int64 [B, S], for each segment of the call the (absolute) segment its recall
                should point at, -100 for none.
            recall_loss_weight: weight of the recall loss in `loss`.
            recall_negatives: let the memory embeddings of the other streams of the batch join the recall loss
                as wrong answers, so that recall learns to be sharp among many segments from samples of few.
            segment_ends: bool or int [B, T], tokens that a segment ends with, however short it is, as if the
                memory had been flushed there. Only of a system that can (`flush`) and `writes_alone`.
            bptt_depth, replay, chunk: see `run`.
            output_recall: return recall weights.
            output_last_hidden_state: return what the head makes the logits of, [B, kept columns, d], and not
                the logits. `base_model` is this without a loss.
        Returns a `MemoryOutput`, logits [B, kept columns, V]. At a masked column the logits are those of the
        last real token before it. ValueError for inputs that do not fit, with the reason; TypeError for a
        keyword that does not exist.
        """
        return calling.call(
            self,
            input_ids,
            attention_mask,
            labels,
            past_key_values,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            recall_targets=recall_targets,
            recall_loss_weight=recall_loss_weight,
            recall_negatives=recall_negatives,
            segment_ends=segment_ends,
            bptt_depth=bptt_depth,
            replay=replay,
            chunk=chunk,
            output_recall=output_recall,
            output_last_hidden_state=output_last_hidden_state,
            inputs_embeds=inputs_embeds,
            return_dict=return_dict,
            kwargs=kwargs,
        )
