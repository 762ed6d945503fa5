"""What the driver returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.modeling_outputs import CausalLMOutputWithPast

from hmt.memory.state import MemoryState


@dataclass
class StepOutput:
    """What one segment gives.

    hidden: [B, w, d] outputs at its tokens. state: the next state. recall: log recall weights [B, N] or None.
    query: [B, d], what the recall compared the bank with (`Frame.query`), or None. loss: of its tokens, where
    `run` was given something that scores them.
    """

    hidden: Tensor
    state: MemoryState
    recall: Tensor | None
    query: Tensor | None = None
    loss: Tensor | None = None


@dataclass
class MemoryOutput(CausalLMOutputWithPast):
    """A causal LM output whose `past_key_values` is a `Memory`.

    recall: recall weights [B, S, N] of the call's S segments, where `output_recall=True` and the system
        recalls; slot i of row b held segment `model.retrieval.held(...)`. Rows sum to 1, or to 0 where the
        bank was empty.
    recall_loss: mean cross-entropy of the recall weights against `recall_targets`, where those were given.
    """

    recall: Tensor | None = None
    recall_loss: Tensor | None = None
