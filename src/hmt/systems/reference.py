"""The systems as their papers write them: one stream, one segment at a time, no batch, no padding, no cache.

These loops are the oracle of the fast path, and the place to read what a system computes. They take weights
and configuration from a model of this library, and call its backbone only as `backbone(inputs_embeds=...)`.

Nothing here is detached: the loss of a long stream can be differentiated with respect to every parameter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Reference(NamedTuple):
    """What a stream of T tokens gives.

    logits: [T, V]; row t predicts token t + 1, in the next segment too.
    loss: mean over the scored tokens, or None without labels.
    memory: what each full segment left behind, [m, d] each (empty for a system without vectors).
    recall: for each segment, the weights over the last N of `memory`, oldest first (may be empty).
    """

    logits: Tensor
    loss: Tensor | None
    memory: list[Tensor]
    recall: list[Tensor]


def hmt_reference(model, ids: Tensor, labels: Tensor | None = None) -> Reference:
    """Hierarchical Memory Transformer, equations 1 to 5 of arXiv 2405.06067; ids and labels int64 [T]."""
    config = model.config
    L, j, k, N = config.segment_length, config.summary_length, config.sensory_length, config.memory_size
    scale, m = config.memory_scale, config.embeddings_per_segment  # both 1 in the paper
    T = model.summary_prompt.weight  # [1, d]
    W_q, W_k = model.recall.query.weight.t(), model.recall.key.weight.t()  # [d, d_h]

    def summary(tokens: Tensor) -> Tensor:
        """Equation 1: S = BBM([T | tokens | T]) at the trailing T."""
        return run_backbone(model, [T, embed(model, tokens), T])[0][-1:]

    logits: list[Tensor] = []
    memory: list[Tensor] = []  # M_n, [m, d]; m is 1 in the paper
    recall: list[Tensor] = []
    for start, segment in segments(ids, L):
        previous = ids[:start]
        H_n = embed(model, segment)
        sensory = embed(model, previous[max(0, start - k) :])
        weights = ids.new_zeros(0, dtype=T.dtype)
        inline = config.recall and config.recall_query == "inline"

        P_n = memory[-1] * scale if memory else model.first_prompt.weight
        if memory and config.recall and not (inline and len(segment) < j):
            if inline:
                S_n = run_backbone(model, [sensory, H_n[:j], T])[0][-1:]
            elif config.recall_query == "segment":
                S_n = summary(segment[:j])
            elif config.recall_query == "previous":
                S_n = summary(previous[-j:])
            else:
                S_n = memory[-1][:1]
            M = torch.stack(memory[-N:])
            Q_n, K_n = S_n @ W_q, M[:, 0] @ W_k  # equation 2
            weights = torch.softmax(Q_n @ K_n.t() / math.sqrt(W_q.shape[1]), dim=-1)
            P_n = (weights @ M.flatten(1)).view(m, -1) * scale  # equation 3
            weights = weights[0]

        W = P_n if config.write_prompt == "recall" else model.write_prompt.weight  # P_n in the paper
        if inline:
            hidden, out = run_backbone(model, [sensory, H_n[:j], T, P_n, H_n[j:], W])
            asked = len(sensory) + len(H_n[:j])  # where T stands
            logits.append(torch.cat([out[len(sensory) : asked], out[asked + 1 + m : -m]]))
        else:
            hidden, out = run_backbone(model, [P_n, sensory, H_n, W])  # equation 4
            logits.append(out[m + len(sensory) : -m])
        if len(segment) == L:
            memory.append(hidden[-m:])  # equation 5
        recall.append(weights)

    return collect(logits, labels, memory, recall)


def rmt_reference(model, ids: Tensor, labels: Tensor | None = None) -> Reference:
    """Recurrent Memory Transformer (arXiv 2207.06881), m causal memory tokens; ids and labels int64 [T]."""
    config = model.config
    L, k, m = config.segment_length, config.sensory_length, config.num_memory_tokens

    logits: list[Tensor] = []
    memory: list[Tensor] = []  # [m, d]
    for start, segment in segments(ids, L):
        mem = memory[-1] * config.memory_scale if memory else model.first_prompt.weight
        sensory = embed(model, ids[max(0, start - k) : start])
        hidden, out = run_backbone(model, [mem, sensory, embed(model, segment), mem])
        logits.append(out[m + len(sensory) : -m])
        if len(segment) == L:
            memory.append(hidden[-m:])

    return collect(logits, labels, memory, [])


def window_reference(model, ids: Tensor, labels: Tensor | None = None) -> Reference:
    """The backbone alone, reading again the tokens just before each segment; ids and labels int64 [T]."""
    L, w = model.config.segment_length, model.config.window_length

    logits: list[Tensor] = []
    for start, segment in segments(ids, L):
        before = ids[max(0, start - w) : start]
        _, out = run_backbone(model, [embed(model, before), embed(model, segment)])
        logits.append(out[len(before) :])

    return collect(logits, labels, [], [])


def segments(ids: Tensor, length: int) -> Iterator[tuple[int, Tensor]]:
    """(start, tokens) of each segment; the last one may be shorter."""
    for start in range(0, len(ids), length):
        yield start, ids[start : start + length]


def embed(model, ids: Tensor) -> Tensor:
    """Token embeddings [n, d] of int64 [n]."""
    return model.backbone.get_input_embeddings()(ids)


def run_backbone(model, parts: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Last hidden states [n, d] and logits [n, V] of the vectors [., d] in `parts`, one after the other."""
    inputs = torch.cat(parts)[None]
    output = model.backbone(inputs_embeds=inputs, output_hidden_states=True, use_cache=False)
    return output.hidden_states[-1][0], output.logits[0]


def collect(
    logits: list[Tensor], labels: Tensor | None, memory: list[Tensor], recall: list[Tensor]
) -> Reference:
    """Join the segments; score every label with the logits of the token before it (-100: not scored)."""
    joined = torch.cat(logits)
    loss = None
    if labels is not None:
        total = F.cross_entropy(joined[:-1], labels[1:], ignore_index=-100, reduction="sum")
        loss = total / max(1, int((labels[1:] != -100).sum()))
    return Reference(joined, loss, memory, recall)
