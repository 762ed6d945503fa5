"""The systems as their papers write them: one stream, one segment at a time, no batch, no padding, no cache.

These loops are the oracle of the fast path, and the place to read what a system computes. They take weights
and configuration from a model of this library, and call its backbone only as `backbone(inputs_embeds=...)`.

Nothing here is detached: the loss of a long stream can be differentiated with respect to every parameter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from hmt import backbone as bb


class Reference(NamedTuple):
    """What a stream of T tokens gives.

    logits: [T, V]; row t predicts token t + 1, in the next segment too.
    loss: mean over the scored tokens, or None without labels.
    memory: what each full segment left behind, [m, d] each (empty for a system without vectors).
    recall: for each segment, the weights over the last N of `memory`, oldest first (may be empty).
    state: what the state of the stream holds at the end, by name; of tensors with slots the filled ones,
        which stand at the right end of the second axis from the last.
    """

    logits: Tensor
    loss: Tensor | None
    memory: list[Tensor]
    recall: list[Tensor]
    state: Mapping[str, Tensor] = {}


def segments(ids: Tensor, length: int) -> Iterator[tuple[int, Tensor]]:
    """(start, tokens) of each segment; the last one may be shorter."""
    for start in range(0, len(ids), length):
        yield start, ids[start : start + length]


def embed(model: Any, ids: Tensor) -> Tensor:
    """Token embeddings [n, d] of int64 [n]."""
    return bb.embed(model.backbone, ids)


def run_backbone(model: Any, parts: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Last hidden states [n, d] and logits [n, V] of the vectors [., d] in `parts`, one after the other."""
    inputs = torch.cat(parts)[None]
    output = model.backbone(inputs_embeds=inputs, output_hidden_states=True, use_cache=False)
    return output.hidden_states[-1][0], output.logits[0]


def collect(
    logits: list[Tensor],
    labels: Tensor | None,
    memory: list[Tensor],
    recall: list[Tensor],
    state: Mapping[str, Tensor] | None = None,
) -> Reference:
    """Join the segments; score every label with the logits of the token before it (-100: not scored)."""
    joined = torch.cat(logits)
    loss = None
    if labels is not None:
        total = F.cross_entropy(joined[:-1], labels[1:], ignore_index=-100, reduction="sum")
        loss = total / max(1, int((labels[1:] != -100).sum()))
    return Reference(joined, loss, memory, recall, state or {})


def attend_in_segments(
    model: Any, ids: Tensor, labels: Tensor | None, *, window: int, sinks: int, detached: bool
) -> Reference:
    """A Llama layer by layer, from its equations: each segment attends to itself and to keys and values kept.

    Kept are those of the first `sinks` and the last `window` tokens before the segment, as they were computed
    when those were read; they stand at positions 0, 1, ..., and the segment behind them. detached: no
    gradient flows into them.
    """
    L, body = model.config.segment_length, model.backbone.model
    keys: list[list[Tensor]] = [[] for _ in body.layers]  # by layer and token [heads, size], not rotated
    values: list[list[Tensor]] = [[] for _ in body.layers]
    logits: list[Tensor] = []
    closed: list[int] = []
    for start, segment in segments(ids, L):
        kept = [*range(min(sinks, start)), *range(max(min(sinks, start), start - window), start)]
        x = embed(model, segment)
        positions = torch.arange(len(kept) + len(segment))[None]
        cos, sin = (table[0] for table in body.rotary_emb(x, positions))
        causal = torch.ones(len(segment), len(segment)).tril().bool()
        seen = torch.cat([torch.ones(len(segment), len(kept)).bool(), causal], dim=1)
        for layer, k_l, v_l in zip(body.layers, keys, values, strict=True):
            attention = layer.self_attn
            h = layer.input_layernorm(x)
            heads = (len(segment), -1, attention.head_dim)
            q, k, v = (p(h).view(heads) for p in (attention.q_proj, attention.k_proj, attention.v_proj))
            K = torch.stack([k_l[at].detach() if detached else k_l[at] for at in kept] + list(k))
            V = torch.stack([v_l[at].detach() if detached else v_l[at] for at in kept] + list(v))
            q, K = _rotate(q, cos[len(kept) :], sin[len(kept) :]), _rotate(K, cos, sin)
            groups = q.shape[1] // K.shape[1]
            K_g, V_g = K.repeat_interleave(groups, 1), V.repeat_interleave(groups, 1)
            scores = torch.einsum("ihd,jhd->hij", q, K_g) / math.sqrt(attention.head_dim)
            weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
            x = x + attention.o_proj(torch.einsum("hij,jhd->ihd", weights, V_g).flatten(1))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
            k_l += list(k)
            v_l += list(v)
        logits.append(model.backbone.lm_head(body.norm(x)))
        if len(segment) == L:
            end = start + L
            closed = [*range(min(sinks, end)), *range(max(min(sinks, end), end - window), end)]
    state = {}
    if closed:
        for index, (k_l, v_l) in enumerate(zip(keys, values, strict=True)):
            state[f"keys.{index}"] = torch.stack([k_l[at] for at in closed], dim=1)
            state[f"values.{index}"] = torch.stack([v_l[at] for at in closed], dim=1)
    return collect(logits, labels, [], [], state)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of vectors [n, heads, d] by tables [n, d]."""
    a, b = x.chunk(2, dim=-1)
    return x * cos[:, None] + torch.cat([-b, a], dim=-1) * sin[:, None]
