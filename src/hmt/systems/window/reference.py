"""The window that is read again, as a plain loop."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hmt.systems.loops import Reference, collect, embed, run_backbone, segments


def reference(model: Any, ids: Tensor, labels: Tensor | None = None) -> Reference:
    """The backbone alone, reading again the tokens just before each segment; ids and labels int64 [T]."""
    L, w = model.config.segment_length, model.config.window_length

    logits: list[Tensor] = []
    for start, segment in segments(ids, L):
        before = ids[max(0, start - w) : start]
        _, out = run_backbone(model, [embed(model, before), embed(model, segment)])
        logits.append(out[len(before) :])

    return collect(logits, labels, [], [])
