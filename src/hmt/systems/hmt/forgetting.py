"""Taking segments out of a bank whose segments were written alone.

What such a segment left behind is its own slot and nothing else, so a memory without it is the same slots in
the same order, moved together, and the sensory tokens that then come last.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from hmt.memory.memory import Memory
from hmt.memory.state import MemoryState
from hmt.systems.hmt import passages


@torch.no_grad()
def without(model: Any, memory: Memory, segments: Iterable[int]) -> Memory:
    """See `StreamingLM.without`."""
    if memory.batch_size != 1:
        raise ValueError(f"the memory holds {memory.batch_size} streams; select([row]) the one that is meant")
    memory = model.memory_for(memory, 1)
    state, gone = memory.state.consolidated(), set(segments)
    held = {segment: slot for slot, segment in enumerate(model.retrieval.held(state.segments)[0].tolist())}
    held.pop(-1, None)
    if unknown := sorted(gone - held.keys()):
        raise ValueError(f"the memory does not hold segment {unknown[0]}, so it cannot be taken out")
    if not gone:
        return memory.copy()
    kept = [held[segment] for segment in sorted(held.keys() - gone)]
    number, tensors = len(kept), dict(model.initial_state(1).tensors)
    for name in ("bank", "passages"):
        tensors[name][:, :number] = state[name][:, kept]
    words = passages.decode_ids(tensors["passages"][0, :number])
    ids = words[words > 0] - 1  # in the order of the text: row by row, each to the right
    if number:
        tensors["latest"] = tensors["bank"][:, number - 1].clone()
        width = tensors["sensory"].shape[1]
        last = ids[max(0, len(ids) - width) :]
        tensors["sensory"][0, width - len(last) :] = last
    tensors["segments"] = tensors["segments"] + number
    tensors["tokens"] = tensors["tokens"] + len(ids)
    return Memory(MemoryState(tensors), memory.open_ids, memory.open_lengths, memory.identity)
