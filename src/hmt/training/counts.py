"""What the losses of a batch are means over."""

from __future__ import annotations

import torch


def scored_tokens(labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """How many labels int64 [B, T] the model scores: those on real tokens but the first of each row."""
    later = mask.long().cumsum(1) > 1
    return (later & mask.bool() & (labels != -100)).sum()


def count_recall_targets(model, targets: torch.Tensor) -> torch.Tensor:
    """How many targets int64 [B, S] are in the bank when their segment is read: those in the recall loss."""
    now = torch.arange(targets.shape[1], device=targets.device)
    if model.retrieval is None:
        return torch.zeros((), device=targets.device)
    slots = model.retrieval.held(now)
    return ((slots[None] == targets.unsqueeze(-1)).any(-1) & (targets >= 0)).sum().float()
