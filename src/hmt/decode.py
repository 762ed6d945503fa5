"""The open segment, token by token, on a KV cache.

The cache holds the frame of the open segment: [prefix | sensory | open tokens], left-padded where streams
differ. When a segment fills up it is closed by running the suffix on top of its cache, which is identical to
a full pass, and the next token opens a new frame. Cost per token and memory do not depend on what was read
before.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache

from . import backbone as bb
from .frame import assemble
from .memory import Memory, OpenKV


def can_append(model, memory: Memory, ids: Tensor, mask: Tensor | None) -> bool:
    """Whether `append_token` gives what a full pass over the open segment would give."""
    if ids.shape[1] != 1 or model.training or torch.is_grad_enabled():
        return False
    if mask is not None and not bool(mask.all()):
        return False
    return bool(model.settled(memory.open_lengths).all())


def append_token(model, memory: Memory, ids: Tensor) -> Tensor:
    """Read one more token per stream, advancing `memory` in place. ids int64 [B, 1] -> outputs [B, 1, d]."""
    if memory.kv is None:
        memory.kv = open_frame(model, memory)
    hidden = extend(model, memory.kv, model.embed(ids))
    at = torch.arange(memory.open_ids.shape[1], device=ids.device) == memory.open_lengths[:, None]
    memory.open_ids = torch.where(at, ids, memory.open_ids)
    memory.open_lengths = memory.open_lengths + 1
    full = memory.open_lengths == model.config.segment_length
    if bool(full.any()):
        close_frame(model, memory, full)
    return hidden


def open_frame(model, memory: Memory) -> OpenKV:
    """Run the frame of the open segment once and keep its keys and values."""
    ids, lengths = memory.open_ids, memory.open_lengths
    prepared = model.prepare_one(ids, lengths) if model.frame_reads_prepared else None
    frame = model.frame(memory.state, prepared)
    laid_out = assemble(frame, model.embed(frame.sensory), model.embed(ids), lengths)
    filled = frame.rows_before() + lengths
    longest, shortest = torch.stack([filled.amax(), filled.amin()]).tolist()
    cache = DynamicCache(config=model.backbone.config.get_text_config())
    if longest == 0:  # nothing before the first token: the cache starts empty
        return OpenKV(cache, None, frame)
    pad = longest - filled[:, None]
    index = torch.arange(longest, device=ids.device) - pad
    embeddings = laid_out.gather(1, index.clamp(min=0).unsqueeze(-1).expand(-1, -1, laid_out.shape[-1]))
    mask = None if longest == shortest else (index >= 0).long()
    positions = None if mask is None else index.clamp(min=0)
    _, cache = bb.last_hidden(
        model.backbone,
        embeddings,
        past_key_values=cache,
        attention_mask=mask,
        position_ids=positions,
        use_cache=True,
    )
    return OpenKV(cache, mask, frame)


def extend(model, kv: OpenKV, embeddings: Tensor) -> Tensor:
    """Run vectors [B, n, d] on top of the cache."""
    positions = None
    if kv.mask is not None:
        start = kv.mask.sum(1, keepdim=True)
        positions = start + torch.arange(embeddings.shape[1], device=embeddings.device)
        kv.mask = torch.cat([kv.mask, kv.mask.new_ones(embeddings.shape[:2])], dim=1)
    hidden, kv.cache = bb.last_hidden(
        model.backbone,
        embeddings,
        past_key_values=kv.cache,
        attention_mask=kv.mask,
        position_ids=positions,
        use_cache=True,
    )
    return hidden


def close_frame(model, memory: Memory, full: Tensor) -> None:
    """Turn the open segments of the rows in `full` into memory. Caches of all rows are rebuilt on demand."""
    kv, ids, lengths = memory.kv, memory.open_ids, memory.open_lengths
    assert kv is not None
    suffix = kv.frame.suffix
    if suffix.shape[1]:
        outputs = extend(model, kv, suffix.to(model.get_input_embeddings().weight.dtype))
    else:
        outputs = suffix
    prepared = model.prepare_one(ids, lengths) if model.absorb_reads_prepared else None
    memory.state = model.absorb(memory.state, outputs, ids, full, prepared)
    memory.open_ids = torch.where(full[:, None], 0, ids)
    memory.open_lengths = torch.where(full, 0, lengths)
    memory.kv = None
