"""Transformer-XL as one pass with a mask: who may look at whom is written out, and nothing is cached."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from hmt.systems.loops import Reference, attend_in_segments


def reference(model: Any, ids: Tensor, labels: Tensor | None = None) -> Reference:
    """A token sees its own segment up to itself, and the last M tokens before the segment."""
    config = model.config
    return attend_in_segments(model, ids, labels, window=config.memory_length, sinks=0, detached=True)
