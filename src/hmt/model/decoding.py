"""The open segment on a KV cache.

The cache holds the frame of the open segment: [prefix | sensory | open tokens], left-padded where streams
differ. New tokens are run on top of it, and in the same pass what has to stand behind them: the suffix where
they fill the segment, which is identical to a full pass, or the question of a system that asks inside a
segment. A new frame is run together with its first token. So a segment of L tokens costs L passes, and the
cost of a token does not depend on what was read before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import StaticCache

from hmt import backbone as bb
from hmt.memory.memory import Memory, OpenKV
from hmt.model.asking import check_cache, push_right
from hmt.model.layout import assemble, gather_vectors

if TYPE_CHECKING:
    from hmt.model.base import SegmentMemoryModel


def can_append(model: SegmentMemoryModel, memory: Memory, ids: Tensor, mask: Tensor | None) -> bool:
    """Whether `append` can read ids [B, T]: they fit into the open segments, and streams are alike enough."""
    if model.training or torch.is_grad_enabled():
        return False
    longest = max(memory.kv.lengths) if memory.kv else int(memory.open_lengths.max())
    if longest + ids.shape[1] > model.config.segment_length:
        return False
    if mask is not None and not bool(mask.all()):
        return False
    return memory.kv is not None or not model.asks_inside or _alike(model, memory)


def _alike(model: SegmentMemoryModel, memory: Memory) -> bool:
    """All streams have as many open and raw tokens: what stands inside a segment stands at one place."""
    shortest, longest, youngest, oldest = torch.stack(
        [*memory.open_lengths.aminmax(), *memory.segments_read.aminmax()]
    ).tolist()
    return shortest == longest and model.known_raw_tokens(youngest, oldest) is not None


def append(model: SegmentMemoryModel, memory: Memory, ids: Tensor) -> Tensor:
    """Read tokens of the open segments, int64 [B, T], advancing `memory` in place -> outputs [B, T, d]."""
    kv = memory.kv
    lent = kv is not None and model.compiled is not None and not model.compiled.uses_cache(kv, len(ids))
    if kv is None or not kv.kept or lent:
        kv = memory.kv = open_frame(model, memory, ids)
    left = kv.frame.split - kv.lengths[0]
    if kv.frame.ask is None or not 0 < left <= ids.shape[1]:
        return _feed(model, memory, kv, ids)
    outputs = [_feed(model, memory, kv, ids[:, :left], question=True)]
    if left < ids.shape[1]:
        outputs.append(_feed(model, memory, kv, ids[:, left:]))
    return torch.cat(outputs, dim=1)


def _feed(
    model: SegmentMemoryModel, memory: Memory, kv: OpenKV, ids: Tensor, question: bool = False
) -> Tensor:
    """Run tokens and what stands behind them; `question`: the frame's `ask` does."""
    batch, new = ids.shape
    tokens = model.embed(ids)
    at = memory.open_lengths[:, None] + torch.arange(new, device=ids.device)
    memory.open_ids = memory.open_ids.scatter(1, at, ids)
    memory.open_lengths = memory.open_lengths + new
    kv.lengths = [length + new for length in kv.lengths]
    closing = max(kv.lengths) == model.config.segment_length

    behind: list[Tensor] = []
    if question:
        assert kv.frame.ask is not None
        behind = [kv.frame.ask.to(tokens.dtype)]
    elif closing:
        behind = [kv.frame.suffix.to(tokens.dtype)]
    hidden = extend(model, kv, torch.cat([tokens, *behind], dim=1))
    hidden, outputs = hidden[:, :new], hidden[:, new:]
    if question:
        kv.pending = _answered(model, memory, kv, outputs[:, -1])
        if closing:
            outputs = extend(model, kv, kv.frame.suffix.to(tokens.dtype))
    if closing:
        close_frame(model, memory, outputs)
    return hidden


def open_frame(model: SegmentMemoryModel, memory: Memory, ids: Tensor) -> OpenKV:
    """The frame of the open segments, ready to be run with the tokens `ids` [B, T] that come next.

    Of a system whose frame depends on tokens that are still to come, it is kept only where all are known.
    """
    tokens, lengths = memory.open_ids, memory.open_lengths
    held: list[int] = lengths.tolist()
    prepared, kept = None, True
    if model.frame_reads_prepared:
        known = lengths + ids.shape[1]
        at = lengths[:, None] + torch.arange(ids.shape[1], device=ids.device)
        # no further than the tokens reach: the rest is padding
        prepared = model.prepare_one(tokens.scatter(1, at, ids)[:, : max(held) + ids.shape[1]], known)
        kept = bool(model.settled(known).all())
    frame = model.frame(memory.state, prepared)
    raw, vectors = model.embed(frame.sensory), model.embed(tokens[:, : max(held)])
    kv = OpenKV(bb.new_cache(model.backbone), None, frame, held, kept)
    alike = frame.ask is not None or _alike(model, memory)
    if model.compiled and alike and kept:
        kv.cache = model.compiled.lend_cache(kv, len(ids))
    if frame.ask is not None:
        _open_asking(model, memory, kv, raw, vectors[:, : held[0]])
        return kv
    laid_out = assemble(frame, raw, vectors, lengths)
    filled = frame.rows_before() + lengths
    longest, shortest = torch.stack([filled.amax(), filled.amin()]).tolist()
    slot = torch.arange(longest, device=ids.device) - (longest - filled[:, None])
    if longest:
        kv.pending = gather_vectors(laid_out, slot.clamp(min=0))
        kv.mask = None if longest == shortest else (slot >= 0).long()
    return kv


def _open_asking(model: SegmentMemoryModel, memory: Memory, kv: OpenKV, raw: Tensor, tokens: Tensor) -> None:
    """The open frame of a system that asks inside a segment, asked where the question has been reached."""
    check_cache(model)
    frame = kv.frame
    assert frame.ask is not None
    laid_out = torch.cat([frame.prefix.to(raw.dtype), raw], dim=1)
    laid_out, mask = push_right(laid_out, frame)
    kept = int(mask[0].sum())  # the same in every row, see `_alike`
    asked = tokens.shape[1] >= frame.split
    first = tokens[:, : frame.split] if asked else tokens
    kv.pending = torch.cat([laid_out[:, laid_out.shape[1] - kept :], first], dim=1)
    if asked:
        question = extend(model, kv, frame.ask.to(raw.dtype))[:, -1]
        kv.pending = torch.cat([_answered(model, memory, kv, question), tokens[:, frame.split :]], dim=1)


def _answered(model: SegmentMemoryModel, memory: Memory, kv: OpenKV, question: Tensor) -> Tensor:
    """Complete the frame with the answer to `question` [B, d]; what stands behind it, [B, a, d]."""
    kv.frame = model.answer(memory.state, kv.frame, question, torch.ones_like(memory.open_lengths).bool())
    assert kv.frame.answer is not None
    return kv.frame.answer.to(model.get_input_embeddings().weight.dtype)


def extend(model: SegmentMemoryModel, kv: OpenKV, vectors: Tensor) -> Tensor:
    """Run what is pending and vectors [B, n, d] on top of the cache; the outputs [B, n, d] of the latter."""
    positions = None
    if kv.mask is not None:
        kv.mask = torch.cat([kv.mask, kv.mask.new_ones(vectors.shape[:2])], dim=1)
    number = vectors.shape[1]
    if kv.pending is not None:
        vectors, kv.pending = torch.cat([kv.pending.to(vectors.dtype), vectors], dim=1), None
    if isinstance(kv.cache, StaticCache) and vectors.shape[1] == 1:
        assert model.compiled is not None
        return model.compiled.read_token(vectors, kv.cache)
    if kv.mask is not None:
        positions = (kv.mask.cumsum(1) - 1).clamp(min=0)[:, -vectors.shape[1] :]
    hidden, kv.cache = bb.last_hidden(
        model.backbone,
        vectors,
        past_key_values=kv.cache,
        attention_mask=kv.mask,
        position_ids=positions,
        use_cache=True,
    )
    return hidden[:, hidden.shape[1] - number :]


def close_frame(model: SegmentMemoryModel, memory: Memory, outputs: Tensor) -> None:
    """Turn the open segments that are full into memory. Caches of all streams are built anew on demand.

    outputs: [B, m', d] at the suffix.
    """
    ids, lengths = memory.open_ids, memory.open_lengths
    full = lengths == model.config.segment_length
    prepared = model.prepare_one(ids, lengths) if model.absorb_reads_prepared else None
    memory.state = model.absorb(memory.state, outputs, ids, full, prepared)
    memory.open_ids = torch.where(full[:, None], 0, ids)
    memory.open_lengths = torch.where(full, 0, lengths)
    memory.kv = None
