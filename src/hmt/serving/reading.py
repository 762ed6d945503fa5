"""One step of reading: segments of several streams, in one pass where what they leave behind allows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hmt.memory.memory import Memory
from hmt.model import inputs
from hmt.model.reading import owned
from hmt.serving.jobs import Reading


def begin(model: Any, memory: Memory | None, ids: Any, ending: bool) -> Reading:
    """A job of reading more tokens, which are looked at here. ValueError for ids that are none."""
    memory = model.memory_for(memory, 1)
    before = int(memory.open_lengths[0])
    new = torch.as_tensor(ids, dtype=torch.long, device=model.input_device).reshape(-1)
    if len(new):
        inputs.check_vocabulary(new, model.config.vocab_size)
    return Reading(
        memory=memory, ids=torch.cat([memory.open_ids[0, :before], new]), before=before, ending=ending
    )


def share(readings: Sequence[Reading], length: int, most: int) -> list[tuple[Reading, int]]:
    """How many segments each job gets of `most`: in turn, until these or the segments are used up."""
    given = dict.fromkeys(readings, 0)
    while most > 0 and (hungry := [job for job in readings if given[job] < job.left(length)]):
        for job in hungry[:most]:
            given[job] += 1
        most -= len(hungry)
    return [(job, number) for job, number in given.items() if number]


def step(model: Any, shares: Sequence[tuple[Reading, int]]) -> None:
    """Read the next segments of each job. Where an error comes out, no job has been changed."""
    length = model.segment_length
    if not model.writes_alone:
        read = {job: _read_plainly(model, job, number) for job, number in shares}
    else:
        read = _write_together(model, shares, length)
    for job, (state, done) in read.items():
        job.state, job.done = state, done


def result(model: Any, job: Reading) -> Memory:
    """The memory of a job of which no segment is left."""
    state = job.memory.state if job.state is None else job.state.consolidated()
    rest = job.ids[job.done :]
    opened = torch.nn.functional.pad(rest, (0, model.segment_length - len(rest)))[None]
    return Memory(state, opened, torch.tensor([len(rest)], device=rest.device), job.memory.identity)


def _segments(job: Reading, number: int, length: int) -> list[Tensor]:
    """The next segments, int64 [1, L] each; the last of a job may be shorter."""
    starts = range(job.done, job.done + number * length, length)
    return [job.ids[start : start + length][None] for start in starts]


def _write_together(model: Any, shares: Sequence[tuple[Reading, int]], length: int) -> dict[Reading, Any]:
    """Of a system that `writes_alone`: what all of the segments leave behind is made in one pass."""
    segments = [segment for job, number in shares for segment in _segments(job, number, length)]
    sizes = torch.tensor([segment.shape[1] for segment in segments], device=segments[0].device)
    width = int(sizes.max())
    rows = torch.cat([torch.nn.functional.pad(one, (0, width - one.shape[1])) for one in segments])
    lengths = None if int(sizes.min()) == width else sizes[:, None]
    written = iter(model.write(rows[:, None], lengths))
    pieces, read = iter(segments), {}
    for job, number in shares:
        # a ring is written in place, so a job works on rings of its own from its first segment on
        state = owned(job.memory.state) if job.state is None else job.state
        age, done = int(state.segments), job.done
        for index in range(number):
            segment, left = next(pieces), next(written)  # [1, L] and [1, ...]
            short = segment.shape[1] < length
            ended = torch.ones(1, dtype=torch.bool, device=segment.device) if short else None
            size = torch.tensor([segment.shape[1]], device=segment.device) if short else None
            now = state.aged(age + index, age + index).recording()
            state = model.pass_over(segment, now, size, left, ended).state.settled()
            done += segment.shape[1]
        read[job] = state, done
    return read


def _read_plainly(model: Any, job: Reading, number: int) -> Any:
    """Of any other system: the job by itself."""
    length = model.segment_length
    nothing = torch.zeros_like(job.memory.open_ids), torch.zeros_like(job.memory.open_lengths)
    memory = Memory(job.memory.state if job.state is None else job.state, *nothing, job.memory.identity)
    end = min(job.done + number * length, len(job.ids))
    memory = model.read(job.ids[None, job.done : end], memory=memory, chunk=number)
    if int(memory.open_lengths[0]):
        memory = model.flush(memory)
    return memory.state, end
