"""A segment that asks its memory in the middle: one pass of the backbone, in two parts on one KV cache.

    part 1: [ prefix | sensory | first tokens | ask ]      the output at `ask` is the question
    part 2: [ answer | other tokens | suffix ]             on the keys and values of part 1

Causal attention makes the two parts together equal to one pass over all of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hmt import backbone as bb
from hmt.model.layout import Frame, gather_vectors

if TYPE_CHECKING:
    from hmt.memory.state import MemoryState
    from hmt.model.base import SegmentMemoryModel


def ask_inside(
    model: SegmentMemoryModel,
    state: MemoryState,
    frame: Frame,
    sensory: Tensor,
    tokens: Tensor,
    lengths: Tensor | None,
    seen: int | None,
) -> tuple[Tensor, Tensor, Frame]:
    """Token outputs [B, w, d], suffix outputs [B, m', d] and the completed frame of one segment.

    sensory [B, k, d] and tokens [B, w, d] are embedded; `lengths` and `seen` as in `SegmentMemoryModel.step`.
    """
    check_cache(model)
    assert frame.ask is not None
    batch, width = tokens.shape[:2]
    split = min(frame.split, width)
    ask = frame.ask.to(tokens.dtype)
    kept = sensory if seen is None else sensory[:, sensory.shape[1] - seen :]
    first = torch.cat([frame.prefix.to(tokens.dtype), kept, tokens[:, :split], ask], dim=1)
    size = first.shape[1]
    mask = positions = None
    if seen is None:
        first, mask = push_right(first, frame)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
    opened, cache = bb.last_hidden(
        model.backbone,
        first,
        past_key_values=bb.new_cache(model.backbone),
        attention_mask=mask,
        position_ids=positions,
        use_cache=True,
    )
    asked = (torch.full_like(state.segments, width) if lengths is None else lengths) >= frame.split
    frame = model.answer(state, frame, opened[:, -1], asked)
    assert frame.answer is not None
    answer, suffix = frame.answer.to(tokens.dtype), frame.suffix.to(tokens.dtype)
    second = torch.cat([answer, tokens[:, split:], suffix], dim=1)
    if mask is not None:
        count = mask.sum(1, keepdim=True)
        positions = count + torch.arange(second.shape[1], device=mask.device)
        mask = torch.cat([mask, mask.new_ones(second.shape[:2])], dim=1)
    rest, _ = bb.last_hidden(
        model.backbone,
        second,
        past_key_values=cache,
        attention_mask=mask,
        position_ids=positions,
        use_cache=True,
    )
    start = size - 1 - split
    after = answer.shape[1]
    hidden = torch.cat([opened[:, start : start + split], rest[:, after : after + width - split]], dim=1)
    return hidden, rest[:, rest.shape[1] - suffix.shape[1] :].clone(), frame  # see `read_out`


def push_right(laid_out: Tensor, frame: Frame) -> tuple[Tensor, Tensor]:
    """[prefix | k sensory slots | ...] with the unused sensory slots moved to the left end, and the mask.

    Padding between two parts on one cache would stand in the middle of the row. laid_out [B, T, d] ->
    [B, T, d] and int64 [B, T], 0 at the padding.
    """
    slot = torch.arange(laid_out.shape[1], device=laid_out.device)
    missing = frame.sensory.shape[1] - frame.sensory_lengths[:, None]
    index = torch.where(slot < missing + frame.prefix.shape[1], slot - missing, slot)
    return gather_vectors(laid_out, index.clamp(min=0)), (slot >= missing).long()


def check_cache(model: SegmentMemoryModel) -> None:
    """ValueError where the backbone would drop its cache, and part 2 would silently not see part 1."""
    if not model.training:
        return
    if any(getattr(module, "gradient_checkpointing", False) for module in model.backbone.modules()):
        raise ValueError(
            'recall_query="inline" runs a segment on a KV cache, which gradient checkpointing inside the '
            "backbone switches off; turn that off and train with replay=True, which saves more memory"
        )
