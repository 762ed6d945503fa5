"""The Hierarchical Memory Transformer as a plain loop, from its equations."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from hmt.systems.loops import Reference, collect, embed, run_backbone, segments


def reference(model: Any, ids: Tensor, labels: Tensor | None = None) -> Reference:
    """Hierarchical Memory Transformer, equations 1 to 5 of arXiv 2405.06067; ids and labels int64 [T].

    With passages, exact recall as `hmt.systems.hmt.model` describes it.
    """
    config = model.config
    L, j, k, N = config.segment_length, config.summary_length, config.sensory_length, config.memory_size
    scale, m = config.memory_scale, config.embeddings_per_segment  # both 1 in the paper
    T = model.summary_prompt.weight  # [1, d]
    W_q, W_k = model.recall.query.weight.t(), model.recall.key.weight.t()  # [d, d_h]

    def summary(tokens: Tensor) -> Tensor:
        """Equation 1: S = BBM([T | tokens | T]) at the trailing T."""
        return run_backbone(model, [T, embed(model, tokens), T])[0][-1:]

    def bm25(question: Tensor, passages: list[Tensor]) -> Tensor:
        """Okapi BM25 of every passage for the different tokens of the question, k1 = 0.9, b = 0.4."""
        n, mean = len(passages), sum(map(len, passages)) / len(passages)
        scores = []
        for passage in passages:
            score = 0.0
            for token in set(question.tolist()):
                df = sum(token in other.tolist() for other in passages)
                tf = passage.tolist().count(token)
                rarity = math.log(1 + (n - df + 0.5) / (df + 0.5))
                score += rarity * tf * 1.9 / (tf + 0.9 * (0.6 + 0.4 * len(passage) / mean))
            scores.append(score)
        return torch.tensor(scores, dtype=T.dtype)

    def around(question: Tensor, passages: list[Tensor], best: int) -> Tensor:
        """The 41 tokens of a passage in the middle of which the question's words weigh most."""
        n, passage = len(passages), passages[best].tolist()
        weights = []
        for token in passage:
            df = sum(token in other.tolist() for other in passages)
            asked = token in question.tolist()
            weights.append(math.log(1 + (n - df + 0.5) / (df + 0.5)) if asked else 0.0)
        sums = [sum(weights[max(0, t - 20) : t + 21]) for t in range(len(passage))]
        middle = sums.index(max(sums))
        return passages[best][max(0, middle - 20) : middle + 21]

    def standardised(scores: Tensor) -> Tensor:
        centred = scores - scores.mean()
        return centred / torch.sqrt(centred.square().mean() + 1e-6)

    def mean_state(tokens: Tensor) -> Tensor:
        """The mean of what the first layers give of the tokens, behind the last norm: [1, d] (Llama)."""
        inputs = embed(model, tokens)[None]
        states = model.backbone(
            inputs_embeds=inputs, output_hidden_states=True, use_cache=False
        ).hidden_states
        layer = config.recall_layer
        normed = states[-1] if layer == len(states) - 1 else model.backbone.model.norm(states[layer])
        return normed[0].mean(0, keepdim=True)

    # with passages, the segment that the query is made of is not recalled
    gap = int(bool(config.passages) and config.recall_query == "previous")
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
        read_again: list[Tensor] = []
        if config.recall and len(memory) <= gap:
            P_n = model.first_prompt.weight
        elif memory and config.recall and not (inline and len(segment) < j):
            if inline:
                S_n = run_backbone(model, [sensory, H_n[:j], T])[0][-1:]
            elif config.recall_query == "segment":
                S_n = summary(segment[:j])
            elif config.recall_query == "previous":
                asking = previous[-min(j, L) :]
                S_n = summary(asking) if config.recall_layer is None else mean_state(asking)
            else:
                S_n = memory[-1][:1]
            held = list(range(max(0, len(memory) - N), len(memory) - gap))
            M = torch.stack([memory[n] for n in held])
            Q_n, K_n = S_n @ W_q, M[:, 0] @ W_k  # equation 2
            scores = (Q_n @ K_n.t() / math.sqrt(W_q.shape[1]))[0]
            tokens = [ids[n * L : (n + 1) * L] for n in held]
            if config.lexical:
                lexical = bm25(previous[-L:], tokens)
                scores = standardised(scores) + config.lexical * standardised(lexical)
            if config.recency:
                late = torch.arange(len(held), dtype=T.dtype) / max(1, len(held) - 1)
                scores = (scores if config.lexical else standardised(scores)) + config.recency * late
            weights = torch.softmax(scores, dim=-1)
            P_n = (weights @ M.flatten(1)).view(m, -1) * scale  # equation 3
            if config.passages:
                order = weights.argsort(descending=True, stable=True).tolist()
                best = order[: config.passages]
                if config.hops == 2 and len(held) > config.passages - 1:
                    best = order[: config.passages - 1]
                    asked = torch.cat([previous[-L:], around(previous[-L:], tokens, best[0])])
                    found = bm25(asked, tokens) + 1e-3 * weights
                    best.append(max(set(order) - set(best), key=lambda n: found[n]))
                read_again = [embed(model, tokens[n]) for n in sorted(best)]
            weights = torch.cat([weights, weights.new_zeros(gap)])

        W = P_n if config.write_prompt == "recall" else model.write_prompt.weight  # P_n in the paper
        alone = config.write_prompt == "alone"
        ending = [] if alone else [W]
        if inline:
            before = [sensory, H_n[:j], T, P_n, *read_again]
            hidden, out = run_backbone(model, [*before, H_n[j:], *ending])
            probe = len(sensory) + len(H_n[:j])  # where T stands
            resumed = sum(map(len, before))
            logits.append(torch.cat([out[len(sensory) : probe], out[resumed : resumed + len(H_n[j:])]]))
        else:
            before = [P_n, *read_again, sensory]
            hidden, out = run_backbone(model, [*before, H_n, *ending])  # equation 4
            begun = sum(map(len, before))
            logits.append(out[begun : begun + len(H_n)])
        if alone and len(segment) == L and config.recall_layer is not None:
            hidden = mean_state(segment)
        elif alone and len(segment) == L:
            hidden = run_backbone(model, [T, H_n, W])[0]
        if len(segment) == L:
            memory.append(hidden[-m:])  # equation 5
        recall.append(weights)

    return collect(logits, labels, memory, recall)
