"""Bytes a stream carries, beside what full attention would keep of the same text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from hmt.model.base import SegmentMemoryModel

TOKENS = tuple(2**power for power in range(10, 21, 2))


@dataclass(frozen=True)
class MemoryUse:
    """Bytes per stream.

    Attributes:
        tokens: lengths of text.
        state: what the memory model carries after each of them (state and open token ids).
        kv_cache: what a full-attention KV cache of the same backbone would hold, in the same dtype.
        open_segment: the KV cache of one open segment, which generation (not reading) needs on top of
        `state`.
    """

    tokens: list[int]
    state: list[int]
    kv_cache: list[int]
    open_segment: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> MemoryUse:
        return cls(**values)


@torch.no_grad()
def measure_memory(model: SegmentMemoryModel, tokens: Sequence[int] = TOKENS) -> MemoryUse:
    """State of one stream against length: measured, not extrapolated, since its shapes never change."""
    ordered = sorted(tokens)
    if not ordered or ordered[0] < 1:
        raise ValueError(f"tokens are lengths of 1 or more, got {list(tokens)}")
    memory = model.new_memory(1)
    width = model.dtype.itemsize
    config = model.backbone.config.get_text_config()
    return MemoryUse(
        tokens=ordered,
        state=[memory.nbytes] * len(ordered),
        kv_cache=[kv_cache_bytes(config, length, width) for length in ordered],
        open_segment=kv_cache_bytes(config, model.positions_around() + model.config.segment_length, width),
    )


def kv_cache_bytes(text_config, tokens: int, bytes_per_value: int) -> int:
    """2 (keys, values) x layers x key-value heads x head size x bytes x tokens.

    Layers with a sliding window stop at it.
    """
    heads = getattr(text_config, "num_key_value_heads", None) or text_config.num_attention_heads
    size = (
        getattr(text_config, "head_dim", None) or text_config.hidden_size // text_config.num_attention_heads
    )
    layers = getattr(text_config, "layer_types", None) or ["full_attention"] * text_config.num_hidden_layers
    window = getattr(text_config, "sliding_window", None) or tokens
    kept = {"full_attention": tokens, "sliding_attention": min(tokens, window)}
    # kinds of layer without a KV cache (linear attention, ...) keep a constant that is not counted
    return 2 * heads * size * bytes_per_value * sum(kept.get(kind, 0) for kind in layers)
