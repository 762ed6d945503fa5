"""How likely the tokens of an answer are, and tokens that are less likely once they are there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from hmt.sessions.tokens import Token

if TYPE_CHECKING:
    from hmt.sessions.runner import Options


class Penalties(LogitsProcessor):
    """OpenAI's penalties: every token loses `frequency` for each time it was written, and `presence` once.

    begin: columns of the ids in front of what was written.
    """

    def __init__(self, frequency: float, presence: float, begin: int = 0):
        self.frequency, self.presence, self.begin = frequency, presence, begin

    @classmethod
    def of(cls, options: Options, begin: int = 0) -> list[Penalties]:
        """Those of an answer; none where it has none."""
        if not (options.frequency_penalty or options.presence_penalty):
            return []
        return [cls(options.frequency_penalty, options.presence_penalty, begin)]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Scores [B, V] behind ids int64 [B, T]."""
        written = input_ids[:, self.begin :]
        number = torch.zeros_like(scores).scatter_add_(
            1, written, torch.ones_like(written, dtype=scores.dtype)
        )
        return scores - self.frequency * number - self.presence * (number > 0)


class Likely(LogitsProcessor):
    """Keeps how likely each next token was, and changes nothing."""

    logits: Tensor | None = None

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """The scores as they are."""
        self.logits = scores[0]
        return scores


def likely(token: int, logits: Tensor, top: int) -> Token:
    """A token with its log probability and the `top` likeliest ones, of logits [V]."""
    logs = logits.float().log_softmax(-1)
    best = logs.topk(min(top, len(logs)))
    others = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return Token(token, float(logs[int(token)]), tuple(others))
