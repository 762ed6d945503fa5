"""Recall (equations 2 and 3): which remembered segments a query weighs, and how much."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def floor(like: Tensor | torch.dtype) -> float:
    """Log weight of a slot that holds nothing; scores are half precision under autocast."""
    return torch.finfo(like.dtype if isinstance(like, Tensor) else like).min


class Recall(nn.Module):
    """Equations 2 and 3: single head, no value and no output projection."""

    def __init__(self, width: int, recall_dim: int):
        super().__init__()
        self.query = nn.Linear(width, recall_dim, bias=False)
        self.key = nn.Linear(width, recall_dim, bias=False)
        self.scale = recall_dim**-0.5

    def fold(self, summary: Tensor) -> Tensor:
        """S W_q W_k^T / sqrt(d_h), float32 [..., d]: its inner products with the bank are the scores.

        (S W_q)(M W_k)^T = (S W_q W_k^T) M^T: the query is folded instead of projecting the bank, so no keys
        are stored, and none are projected again at every segment. ValueError where W_k is no weight.
        """
        if not isinstance(self.key, nn.Linear):
            raise ValueError(
                f"recall uses the weight of its key projection, which is a {type(self.key).__name__} now: "
                'adapt the backbone only (LoraConfig(exclude_modules="recall.*", ...)) and train the memory '
                "itself (modules_to_save)"
            )
        return nn.functional.linear(self.query(summary), self.key.weight.t()).float() * self.scale

    def forward(
        self, folded: Tensor, bank: Tensor, filled: Tensor, further: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Recall prompt [B, m d] and log weights [B, N].

        folded: query [B, d]. bank: [B, N, m d]. filled: bool [B, N]. further: scores [B, N] that are added,
        to standardised ones.
        """
        scores = torch.einsum("bd,bnd->bn", folded, keys(bank, folded.shape[-1]).float())
        if further is not None:
            scores = standardised(scores, filled) + further
        log_weights = scores.masked_fill(~filled, floor(scores)).log_softmax(-1)
        log_weights = log_weights.masked_fill(~filled, floor(log_weights))
        prompt = torch.einsum("bn,bnd->bd", log_weights.exp(), bank.float())
        return prompt.to(bank.dtype), log_weights


def standardised(scores: Tensor, filled: Tensor) -> Tensor:
    """Scores [B, N] with mean 0 and deviation 1 over the slots that are filled, bool [B, N]."""
    number = filled.sum(1, keepdim=True).clamp(min=1)
    centred = scores - torch.where(filled, scores, 0).sum(1, keepdim=True) / number
    spread = torch.where(filled, centred, 0).square().sum(1, keepdim=True) / number
    return centred / (spread + 1e-6).sqrt()


def lateness(held: Tensor) -> Tensor:
    """0 for the oldest segment that can be recalled to 1 for the newest, float32 [B, n].

    held: the segment in each slot, int64 [B, n], negative where none can be recalled: 0.
    """
    if not held.shape[1]:
        return held.float()
    newest = held.amax(1, keepdim=True)
    oldest = torch.where(held < 0, newest, held).amin(1, keepdim=True)
    return torch.where(held < 0, 0, held - oldest) / (newest - oldest).clamp(min=1).float()


def keys(bank: Tensor, width: int) -> Tensor:
    """What a query is compared with: the first vector [..., d] of every block [..., m d]."""
    return bank[..., :width]
