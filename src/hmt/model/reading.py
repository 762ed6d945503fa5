"""Reading text into memories: no logits, constant memory, any number of streams of any length.

Streams share a batch for as long as they have a whole segment left, and leave it as they end, so no position
of the backbone is spent on padding. Where there are more streams than fit, the next one takes the free place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from hmt import backbone as bb
from hmt.memory.memory import Memory
from hmt.memory.state import MemoryState
from hmt.model import inputs
from hmt.model.protocol import Progress, Stepper
from hmt.util.oom import out_of_memory_advice, reading_advice


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
        """Whole segments that are still to be read."""
        return len(self.ids) // self.segment_length - self.done

    def segments(self, number: int) -> Tensor:
        """The next segments, int64 [number, L]."""
        start = self.done * self.segment_length
        return self.ids[start : start + number * self.segment_length].view(number, self.segment_length)

    def tail(self) -> Tensor:
        """The open segment behind all whole ones, int64 [n], n < L."""
        return self.ids[len(self.ids) // self.segment_length * self.segment_length :]


def read(
    model: Stepper,
    input_ids: Any,
    attention_mask: Tensor | None,
    memory: Memory | None,
    chunk: int,
    progress: Progress | None,
) -> Memory:
    """See `StreamingLM.read`."""
    input_ids = inputs.as_ids(input_ids, model.input_device)
    mask = inputs.check_mask(attention_mask, input_ids)
    inputs.check_chunk(chunk)
    fresh = memory is None
    memory = model.memory_for(memory, input_ids.shape[0])
    length = model.segment_length
    streams = []
    ages = zip(memory.open_lengths.tolist(), memory.segments_read.tolist(), strict=True)
    for row, (opened, age) in enumerate(ages):
        new = input_ids[row] if mask is None else input_ids[row][mask[row]]
        if len(new):
            inputs.check_vocabulary(new, model.config.vocab_size)
        ids = torch.cat([memory.open_ids[row, :opened], new]) if opened else new
        streams.append(Stream(row, ids, length, age))
    if fresh:
        inputs.check_rows([len(stream.ids) for stream in streams])
    state = memory.state
    if any(stream.left for stream in streams):
        states = dict(_read(model, streams, state, len(streams), chunk, progress))
        ordered = [states[row] for row in range(len(streams))]
        state = MemoryState.cat(ordered) if len(ordered) > 1 else ordered[0]
    return Memory(state, *_open(streams), memory.identity)


@torch.no_grad()
def read_many(
    model: Stepper, documents: Iterable, batch_size: int, chunk: int, progress: Progress | None
) -> Iterator[tuple[int, Memory]]:
    """See `StreamingLM.read_many`."""
    inputs.check_chunk(chunk)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    length = model.segment_length
    tails: dict[int, Stream] = {}

    def streams() -> Iterator[Stream]:
        for index, document in enumerate(documents):
            ids = inputs.as_ids(document, model.input_device)
            if ids.shape[0] != 1:
                raise ValueError(f"document {index} is a batch of {ids.shape[0]} rows; hand over single rows")
            inputs.check_vocabulary(ids, model.config.vocab_size)
            stream = Stream(index, ids[0], length)
            tails[index] = Stream(index, stream.tail().clone(), length)
            yield stream

    for index, state in _read(model, streams(), None, batch_size, chunk, progress):
        yield index, Memory(state, *_open([tails.pop(index)]), model.identity())


def _open(streams: list[Stream]) -> tuple[Tensor, Tensor]:
    """The open segments of streams that have been read: ids [B, L] (0 beyond) and lengths [B]."""
    tails = [stream.tail() for stream in streams]
    length = streams[0].segment_length
    ids = torch.stack([torch.nn.functional.pad(tail, (0, length - len(tail))) for tail in tails])
    return ids, torch.tensor([len(tail) for tail in tails], device=ids.device)


def _read(
    model: Stepper,
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
    whole = model.compiled and not model.writes_alone  # else a step is no more than one pass
    read_segments = model.compiled.read_segments if whole else partial(read_plainly, model)
    if state is not None:
        state = owned(state)
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
                yield active[row].name, state.select(index[row : row + 1]).consolidated()
            going = [row for row in range(len(active)) if active[row].left]
            active = [active[row] for row in going]
            state = state.select(index[going]) if going else None


def read_plainly(
    model: Stepper, ids: Tensor, state: MemoryState, youngest: int, oldest: int
) -> Iterator[MemoryState]:
    """The state after each of n whole segments, ids int64 [B, n, L]; ages of the streams in segments.

    Rings of `state` are written in place.
    """
    alone = model.writes_alone
    known = model.write(ids, None) if alone else model.encode(ids, None)
    read = model.pass_over if alone else model.step
    for index in range(ids.shape[1]):
        now = state.aged(youngest + index, oldest + index).recording()
        part = None if known is None else known[:, index]
        state = read(ids[:, index], now, None, part).state.settled()
        yield state


def owned(state: MemoryState) -> MemoryState:
    """The same state in tensors of its own, that may be written in place."""
    return state.consolidated().map(Tensor.clone)
