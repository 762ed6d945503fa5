"""The language-model loss, without all logits of a long sample in memory together, and the recall loss."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.loss.loss_utils import ForCausalLMLoss

from hmt.backbone import AfterHead, head

CHUNK_BYTES = 2**26  # of float32 logits: enough rows for fast products, small beside a backbone
SMALLEST_CHUNK = 128
_KERNEL_DEVICES = ("cuda",)


def default_chunk(vocab_size: int) -> int:
    """Tokens whose float32 logits take about 64 MiB, but at least 128."""
    return max(SMALLEST_CHUNK, CHUNK_BYTES // (4 * vocab_size))


def token_loss(
    backbone: PreTrainedModel,
    hidden: Tensor,
    goal: Tensor,
    count: Tensor | int,
    loss_function: Callable[..., Tensor],
    *,
    chunk: int | None = None,
    recompute: bool = False,
    kernel: bool = True,
) -> Tensor:
    """Sum of the cross-entropies of the scored tokens, over `count`: a scalar.

    Args:
        hidden: [B, w, d], outputs of the last layer. goal: int64 [B, w], the token to predict at each, -100
            where none is scored.
        count: what the sum is divided by (`num_items_in_batch`).
        loss_function: the model's; it is called once per chunk and the results are added, so it has to honour
            `num_items_in_batch`. One that is not the stock loss is shown whole columns of the batch.
        chunk: tokens whose logits are in memory at once; None takes `default_chunk`.
        recompute: also recompute the logits in the backward pass when there is a single chunk. Those of
            several chunks always are.
        kernel: let liger-kernel's fused head and loss compute it where that is installed and fits. It makes
            the gradients in the forward pass, those of a trained head [V, d] included, and keeps them until
            the backward pass: call this once for a whole sample, not once per segment. One call waits for
            the device twice.
    """
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk is a number of tokens and at least 1, got {chunk}; None chooses one")
    stock = loss_function is ForCausalLMLoss
    if stock:  # a sum over tokens, whatever their rows
        hidden, goal = hidden.reshape(1, -1, hidden.shape[-1]), goal.reshape(1, -1)
        if kernel and not recompute and (fused := _fitting_kernel(backbone, hidden)) is not None:
            return _by_kernel(fused, backbone, hidden[0], goal[0]) / count
        if hidden.device.type == "cpu":  # elsewhere it would wait for the device
            hidden, goal = _scored(hidden, goal)

    def score(hidden: Tensor, goal: Tensor) -> Tensor:
        logits = head(backbone, hidden)
        return loss_function(
            logits=logits,
            labels=None,
            vocab_size=logits.shape[-1],
            num_items_in_batch=count,
            shift_labels=goal.contiguous(),
        )

    tokens = chunk or default_chunk(backbone.config.get_text_config().vocab_size)
    columns = max(1, tokens // hidden.shape[0])
    parts = list(zip(hidden.split(columns, 1), goal.split(columns, 1), strict=True))
    if (recompute or len(parts) > 1) and torch.is_grad_enabled():
        losses = [checkpoint(score, *part, use_reentrant=False) for part in parts]
    else:
        losses = [score(*part) for part in parts]
    return torch.stack(losses).sum()


def _scored(hidden: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
    """[1, n, d] and [1, n] without the columns that are not scored; one stays, so that there is a graph."""
    at = (goal[0] != -100).nonzero()[:, 0]
    if len(at) == goal.shape[1]:
        return hidden, goal
    at = at if len(at) else at.new_zeros(1)
    return hidden.index_select(1, at), goal.index_select(1, at)


# -- liger-kernel -----------------------------------------------------------------------------------------


@cache
def _installed_kernel() -> Any:
    try:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss
    except ImportError:
        return None
    return LigerFusedLinearCrossEntropyLoss


def _fitting_kernel(backbone: PreTrainedModel, hidden: Tensor) -> Any:
    """liger-kernel's loss, or None where it is not installed or would not compute what `head` does."""
    if hidden.device.type not in _KERNEL_DEVICES:
        return None
    layer = backbone.get_output_embeddings()
    if AfterHead.of(backbone).scale != 1:
        return None
    # The kernel takes the bare weight: adapters, quantised and sharded layers, offloading and hooks need the
    # call of the layer.
    if type(layer) is not nn.Linear or type(layer.weight) is not nn.Parameter or "forward" in vars(layer):
        return None
    if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or layer._backward_pre_hooks:
        return None
    if layer.weight.device != hidden.device or layer.weight.dtype != hidden.dtype:
        return None
    if torch.is_grad_enabled() and not hidden.requires_grad:
        return None  # it would leave out the gradients of the head as well
    return _installed_kernel()


def _by_kernel(fused: Any, backbone: PreTrainedModel, hidden: Tensor, goal: Tensor) -> Tensor:
    """Sum of the cross-entropies of hidden [n, d] against goal int64 [n]."""
    layer = backbone.get_output_embeddings()
    loss = fused(ignore_index=-100, reduction="sum", softcap=AfterHead.of(backbone).cap)
    return loss(layer.weight, hidden, goal, layer.bias)


# -- recall -----------------------------------------------------------------------------------------------


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
        held: int64 [B, N], the segments in those banks, -1 if empty. now: int64 [B, S]: of a stream's own
            segments, those before this one are wrong answers (the segment being read, less the gap).
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
