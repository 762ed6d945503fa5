"""Stepping over the segments of a batch, with truncated gradients and with replay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from hmt.memory.state import MemoryState
from hmt.model.outputs import StepOutput
from hmt.model.protocol import Stepper
from hmt.model.segments import Grid


def run(
    model: Stepper,
    grid: Grid,
    state: MemoryState,
    *,
    bptt_depth: int | None = None,
    replay: bool = False,
    chunk: int | None = None,
    after: Callable[[int, StepOutput], StepOutput] | None = None,
    asked: Callable[[int], bool] = lambda index: True,
) -> Iterator[tuple[int, StepOutput]]:
    """Step over the segments of a grid, yielding (index, output).

    Args:
        bptt_depth: detach the state after every so many segments; None lets gradients flow through all.
        replay: recompute each step in the backward pass instead of storing it (activation checkpointing over
            segments).
        chunk: segments that are encoded in one batch; None means all. With replay, where that pass is
            recomputed and must not need much more memory than a step, None means two, or 512 tokens.
        after: applied to every output, with the index of its segment. It belongs to what is replayed: a score
            that it puts in the place of the hidden states is all that is stored of them.
        asked: whether anything but the next state is wanted of a segment, by its index. Where not, a system
            that `writes_alone` saves its pass; the outputs are then zeros.
    """
    training = torch.is_grad_enabled()
    call = checkpointed if replay and training else plainly
    if chunk is None:
        few = max(2, 512 // (grid.ids.shape[0] * grid.segment_length))
        chunk = few if call is checkpointed else grid.num_segments
    youngest, oldest = torch.stack([*state.segments.aminmax()]).tolist()
    if training:
        state = state.recording(fresh=oldest == 0)

    def step(index: int, *args: Any) -> StepOutput:
        output = model.step(*args)
        ended = grid.ended_in(index)
        if ended is not None:
            ids = args[0]
            early = ended & (grid.lengths_of(index) < grid.segment_length)
            covered = torch.where(early, grid.lengths_of(index), 0)
            output = replace(output, state=model.close(ids, output.state, covered))
        return output if after is None else after(index, output)

    def passed_over(
        index: int, ids: Tensor, state: MemoryState, lengths: Tensor | None, written: Tensor | None
    ) -> StepOutput:
        output = model.pass_over(ids, state, lengths, written, grid.ended_in(index))
        return output if after is None else after(index, output)

    for start in range(0, grid.num_segments, chunk):
        indices = range(start, min(start + chunk, grid.num_segments))
        rest = [index for index in indices if model.writes_alone and not asked(index)]
        whole = [index for index in indices if index not in rest]
        queue = encode_parts(model.encode, grid, whole, call)
        widths = {index: grid.segment(index)[0].shape[1] for index in rest}
        for width in set(widths.values()):  # short ones would be filled up to the longest
            alike = [index for index in rest if widths[index] == width]
            queue |= encode_parts(model.write, grid, alike, call)
        for index in indices:
            if bptt_depth and index and index % bptt_depth == 0:
                state = state.detach()
            ids, lengths = grid.segment(index)
            # rows that have ended are younger than this says, and nothing of them is used any more
            state = state.aged(youngest + index, oldest + index)
            function = passed_over if index in rest else step
            output = call(function, index, ids, state, lengths, queue[index])
            state = output.state
            yield index, output


def encode_parts(
    encode: Callable[..., Tensor | None], grid: Grid, indices: Sequence[int], call: Callable[..., Any]
) -> dict[int, Tensor | None]:
    """What `encode` gives of the segments of these indices, [B, ...] each."""
    if not indices:
        return {}
    parts = [grid.segment(index) for index in indices]
    width = max(ids.shape[1] for ids, _ in parts)
    ids = torch.stack([pad(ids, (0, width - ids.shape[1])) for ids, _ in parts], dim=1)
    full = all(lengths is None and ids.shape[1] == width for ids, lengths in parts)
    lengths = None if full else torch.stack([grid.lengths_of(i) for i in indices], dim=1)
    encoded = call(encode, ids, lengths)
    found = [None] * len(parts) if encoded is None else encoded.unbind(1)
    return dict(zip(indices, found, strict=True))


def plainly(function: Callable[..., Any], *args: Any) -> Any:
    """The function as it is."""
    return function(*args)


def checkpointed(function: Callable[..., Any], *args: Any) -> Any:
    """The function, computed again in the backward pass instead of stored."""
    return checkpoint(function, *args, use_reentrant=False)
