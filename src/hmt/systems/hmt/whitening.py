"""Where recall begins, measured: W_q and W_k that compare what is special about a question and a segment.

Mean states of a language model point nearly the same way, whatever they are of, and differ most where it
does not matter. So the directions in which memory embeddings vary are brought to one scale, and the part of
a query that all questions share is left out:

    C = cov(M) = V diag(e) V^T,   W_k = V diag(e + r mean(e))^(-1/2),
    W_q = c (I - u u^T) W_k,      u = the mean query, normalised

with c such that the scores of a question have deviation `spread`.
"""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 0.3


@torch.no_grad()
def whiten(
    embeddings: Tensor, queries: Tensor, recall_dim: int, *, ridge: float = RIDGE, spread: float = 1.5
) -> tuple[Tensor, Tensor]:
    """Weights of W_q and W_k, [d_h, d] each, from memory embeddings [n, d] and queries [q, d].

    Of d_h < d the directions that vary most are kept. ValueError for fewer than two of each.
    """
    if len(embeddings) < 2 or len(queries) < 2:
        raise ValueError(
            f"recall is measured on segments and questions, at least 2 of each, got {len(embeddings)} and "
            f"{len(queries)}"
        )
    memory, asked = embeddings.double(), queries.double()
    values, vectors = torch.linalg.eigh(torch.cov(memory.T))
    values, vectors = values.flip(0)[:recall_dim], vectors.flip(1)[:, :recall_dim]
    key = vectors / (values + ridge * values.mean()).sqrt()
    common = torch.nn.functional.normalize(asked.mean(0), dim=0)
    query = key - torch.outer(common, common @ key)
    scores = (asked @ query) @ (memory @ key).T / recall_dim**0.5
    query = query * (spread / scores.std(dim=1).mean())
    return query.T.float(), key.T.float()
