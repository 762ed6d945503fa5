"""The Hierarchical Memory Transformer as a plain loop, from its equations."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hmt.systems.loops import Reference, collect, embed, run_backbone, segments


def reference(model: Any, ids: Tensor, labels: Tensor | None = None) -> Reference:
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
