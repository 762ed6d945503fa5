"""The recall loss: cross-entropy of the recall weights against the segment that holds what is needed."""

from __future__ import annotations

import torch
from torch import Tensor


def own_bank(
    log_weights: Tensor, targets: Tensor, held: Tensor, lengths: Tensor, segment_length: int
) -> Tensor:
    """Mean of -log weight of the slot that holds the target; 0 where no target is in its bank.

    Args:
        log_weights: [B, S, N]. targets: int64 [B, S'], absolute segment indices, negative for none.
        held: int64 [B, S, N], the segment in each slot when the recall was made, -1 if empty.
        lengths: int64 [B], tokens of each row; segments beyond them have no recall.
    """
    targets = targets[:, : log_weights.shape[1]]
    log_weights, held = log_weights[:, : targets.shape[1]], held[:, : targets.shape[1]]
    hit = (held == targets.unsqueeze(-1)) & _askable(targets, lengths, segment_length)
    return _mean_loss(torch.where(hit, log_weights, 0.0).sum(-1), hit.any(-1))


def in_batch(
    scores: Tensor, targets: Tensor, held: Tensor, now: Tensor, lengths: Tensor, segment_length: int
) -> Tensor:
    """The same, with the memory embeddings of the other streams as further wrong answers.

    A recall that is only trained to find a segment among a few stays too soft to find it among many. The
    other streams of a batch have made embeddings of the same kind, and scoring them costs nothing beside the
    backbone.

    Args:
        scores: [B, S, B, N], queries of every stream against the bank of every stream after the call.
        held: int64 [B, N], the segments in those banks, -1 if empty. now: int64 [B, S], the segment being
            read.
    """
    batch = scores.shape[0]
    targets = targets[:, : scores.shape[1]]
    scores, now = scores[:, : targets.shape[1]], now[:, : targets.shape[1]]
    own = torch.eye(batch, dtype=torch.bool, device=scores.device)[:, None, :, None]
    past = held[None, None] < now[:, :, None, None]
    allowed = (held >= 0)[None, None] & (past | ~own)
    asked = _askable(targets, lengths, segment_length)[..., None]
    hit = own & allowed & asked & (held[None, None] == targets[:, :, None, None])
    log_weights = (
        scores.float().masked_fill(~allowed, torch.finfo(torch.float32).min).flatten(2).log_softmax(-1)
    )
    hit = hit.flatten(2)
    return _mean_loss(torch.where(hit, log_weights, 0.0).sum(-1), hit.any(-1))


def _askable(targets: Tensor, lengths: Tensor, segment_length: int) -> Tensor:
    """bool [B, S, 1]: there is a target, and the row reaches this segment."""
    index = torch.arange(targets.shape[1], device=targets.device)
    return ((targets >= 0) & (index * segment_length < lengths[:, None])).unsqueeze(-1)


def _mean_loss(log_weights: Tensor, valid: Tensor) -> Tensor:
    return -(log_weights * valid).sum() / valid.sum().clamp(min=1)
