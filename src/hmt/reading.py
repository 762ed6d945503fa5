"""Reading text into memories: no logits, constant memory, any number of streams of any length.

Streams share a batch for as long as they have a whole segment left, and leave it as they end, so no position
of the backbone is spent on padding. Where there are more streams than fit, the next one takes the free place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import backbone as bb
from . import inputs
from .limits import out_of_memory_advice, reading_advice
from .memory import Memory
from .segments import make_grid
from .state import MemoryState

if TYPE_CHECKING:
    from .model import SegmentMemoryModel

Progress = Callable[[int], object]


@dataclass
class Stream:
    """One stream being read: `ids` int64 [T], those of its open segment in front.

    `age` segments were read before, `done` since.
    """

    name: int
    ids: Tensor
    segment_length: int
    age: int = 0
    done: int = 0

    @property
    def left(self) -> int:
        return len(self.ids) // self.segment_length - self.done

    def segments(self, number: int) -> Tensor:
        """The next segments, int64 [number, L]."""
        start = self.done * self.segment_length
        return self.ids[start : start + number * self.segment_length].view(number, self.segment_length)

    def tail(self) -> Tensor:
        return self.ids[len(self.ids) // self.segment_length * self.segment_length :]


class ReadingMixin:
    """`read` and `read_many`; mixed into `SegmentMemoryModel`."""

    @torch.no_grad()
    def read(
        self: Any,
        input_ids,
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
            chunk: segments whose summaries run in one batch (more is faster and takes more memory).
            progress: called as progress(tokens_done) after each segment, of all streams together.
        Returns a new `Memory`.
        """
        input_ids = inputs.as_ids(input_ids, self.device)
        mask = inputs.check_mask(attention_mask, input_ids)
        inputs.check_chunk(chunk)
        fresh = memory is None
        memory = self.memory_for(memory, input_ids.shape[0])
        grid = make_grid(input_ids, mask, memory.open_ids, memory.open_lengths, self.config.segment_length)
        inputs.check_vocabulary(grid.ids, self.config.vocab_size)
        if fresh:
            inputs.check_rows(grid)
        rows = torch.stack([grid.lengths, memory.segments_read], dim=1).tolist()
        streams = [Stream(b, grid.ids[b, :n], grid.segment_length, age) for b, (n, age) in enumerate(rows)]
        states = dict(_read(self, streams, memory.state, len(streams), chunk, progress))
        state = MemoryState.cat([states[b] for b in range(len(streams))]) if len(states) > 1 else states[0]
        return Memory(state, *grid.tail(), memory.origin)

    @torch.no_grad()
    def read_many(
        self: Any,
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
        Yields (index, memory of one stream) as documents end: the short ones first.
        """
        inputs.check_chunk(chunk)
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        length = self.config.segment_length
        tails: dict[int, Tensor] = {}

        def streams() -> Iterator[Stream]:
            for index, document in enumerate(documents):
                ids = inputs.as_ids(document, self.device)
                if ids.shape[0] != 1:
                    raise ValueError(
                        f"document {index} is a batch of {ids.shape[0]} rows; hand over single rows"
                    )
                inputs.check_vocabulary(ids, self.config.vocab_size)
                stream = Stream(index, ids[0], length)
                tails[index] = stream.tail()
                yield stream

        for index, state in _read(self, streams(), None, batch_size, chunk, progress):
            tail = tails.pop(index)
            open_ids = torch.nn.functional.pad(tail, (0, length - len(tail)))[None]
            yield index, Memory(state, open_ids, torch.tensor([len(tail)], device=tail.device), self.origin())


def _read(
    model: SegmentMemoryModel,
    streams: Iterable[Stream],
    state: MemoryState | None,
    places: int,
    chunk: int,
    progress: Progress | None,
) -> Iterator[tuple[int, MemoryState]]:
    """Read streams, at most `places` at once; yields (name, state of one row) as they end.

    state: what the streams start from, row by row; None for streams that have read nothing.
    """
    waiting = iter(streams)
    active: list[Stream] = []
    read_segments = model.compiled.read_segments if model.compiled else partial(read_plainly, model)
    tokens = 0
    while True:
        new = list(islice(waiting, places - len(active)))
        if new and (active or state is None):
            begun = model.initial_state(len(new))
            state = MemoryState.cat([state, begun]) if active and state is not None else begun
        active += new
        if not active or state is None:
            return
        number = min(chunk, *(stream.left for stream in active))
        if number:
            ids = torch.stack([stream.segments(number) for stream in active])
            ages = [stream.age + stream.done for stream in active]
            advice = partial(reading_advice, chunk, len(active), model.config.segment_length)
            with out_of_memory_advice(advice), bb.evaluating(model):
                for after in read_segments(ids, state, min(ages), max(ages)):
                    state = after
                    tokens += ids.shape[0] * ids.shape[2]
                    if progress is not None:
                        progress(tokens)
            for stream in active:
                stream.done += number
        ended = [row for row, stream in enumerate(active) if not stream.left]
        if ended:
            index = torch.arange(len(active), device=state.segments.device)
            for row in ended:
                yield active[row].name, state.rows(index[row : row + 1])
            going = [row for row in range(len(active)) if active[row].left]
            active = [active[row] for row in going]
            state = state.rows(index[going]) if going else None


def read_plainly(
    model: SegmentMemoryModel, ids: Tensor, state: MemoryState, youngest: int, oldest: int
) -> Iterator[MemoryState]:
    """The state after each of n whole segments, ids int64 [B, n, L]; ages of the streams in segments."""
    prepared = model.prepare(ids, None)
    for index in range(ids.shape[1]):
        seen = model.known_raw_tokens(youngest + index, oldest + index)
        part = None if prepared is None else prepared[:, index]
        state = model.step(ids[:, index], state, None, part, seen).state
        yield state
