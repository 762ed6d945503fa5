"""Which segments a model recalls while it reads: a map of recall weights."""

from __future__ import annotations

import numpy as np
import torch

from hmt.model.checkpoint import BackboneWrapper
from hmt.model.segments import make_grid
from hmt.util.integers import as_integers


@torch.no_grad()
def recall_map(model: BackboneWrapper, input_ids, max_segments: int = 512) -> np.ndarray:
    """Recall weights float32 [S, S] of one stream: row s is segment s being read, column r segment r
    recalled.

    NaN where segment r was not in the memory bank (not read yet, or pushed out). `input_ids` is int64 [T] or
    a list; at most `max_segments` segments are read. The numbers are those of `model(...,
    output_recall=True)`, laid out by `model.retrieval.held`, without keeping the outputs of the whole text.
    ValueError when the model does not recall, or there are not two segments.
    """
    length = model.config.segment_length
    device = model.get_input_embeddings().weight.device
    ids = as_integers(input_ids, "input_ids").to(device).flatten()[: max_segments * length]
    number = -(-len(ids) // length)
    if number < 2:
        raise ValueError(
            f"a recall map needs more than one segment of {length} tokens, got {len(ids)} tokens"
        )
    memory, retrieval = model.new_memory(1), model.retrieval
    weights = np.full((number, number), np.nan, dtype=np.float32)
    grid = make_grid(ids[None], None, memory.open_ids, memory.open_lengths, length)
    before = memory.state.segments
    for index, output in model.run(grid, memory.state, chunk=8):
        if output.recall is None or retrieval is None:
            raise ValueError(f"a {model.config.model_type} model as configured here recalls nothing")
        slots = retrieval.held(before)
        held = slots[0] >= 0
        weights[index, slots[0][held].cpu().numpy()] = output.recall[0][held].float().exp().cpu().numpy()
        before = output.state.segments
    return weights
