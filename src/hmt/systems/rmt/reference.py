"""The Recurrent Memory Transformer as a plain loop."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hmt.systems.loops import Reference, collect, embed, run_backbone, segments


def reference(model: Any, ids: Tensor, labels: Tensor | None = None) -> Reference:
    """Recurrent Memory Transformer (arXiv 2207.06881), m causal memory tokens; ids and labels int64 [T]."""
    config = model.config
    L, k, m = config.segment_length, config.sensory_length, config.num_memory_tokens

    logits: list[Tensor] = []
    memory: list[Tensor] = []  # [m, d]
    for start, segment in segments(ids, L):
        mem = memory[-1] * config.memory_scale if memory else model.first_prompt.weight
        sensory = embed(model, ids[max(0, start - k) : start])
        hidden, out = run_backbone(model, [mem, sensory, embed(model, segment), mem])
        logits.append(out[m + len(sensory) : -m])
        if len(segment) == L:
            memory.append(hidden[-m:])

    return collect(logits, labels, memory, [])
