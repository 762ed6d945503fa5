"""What one segment and the driver return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers.modeling_outputs import CausalLMOutputWithPast

from hmt.memory.state import MemoryState


@dataclass
class StepOutput:
    """What one segment gives.

    hidden: [B, w, d] outputs at its tokens. state: the next state. recall: log recall weights [B, N] or None.
    query: [B, d], what the recall compared the bank with (`Layout.query`), or None. loss: of its tokens,
    where the driver was given something that scores them.
    """

    hidden: Tensor
    state: MemoryState
    recall: Tensor | None = None
    query: Tensor | None = None
    loss: Tensor | None = None


@dataclass(frozen=True)
class SegmentRecord:
    """A segment that has been read, as `update` sees it; rows that are not `full` must keep their state.

    Attributes:
        ids: int64 [B, L]; [B, w] with w <= L of a segment that is closed early (`StreamingLM.flush`).
        full: bool [B], rows whose segment is closed.
        lengths: real tokens of each row, int64 [B], of segments that are closed early; None: all w.
        written: what `write` gave of it, where the driver has asked already, or None.
        encoded: what `encode` gave of it, or None.
        kept: outputs [B, m, d] at the parts of the layout that have a `keep`, by its name.
        layers: the same after every layer, [B, layers, m, d]; only of systems with a layer memory.
        hidden: outputs [B, L, d] at its tokens; only of systems that set `records_hidden`.
        cache: keys and values of the whole pass, and `mask` int64 [B, C] of its positions (None: all real);
            only of systems with a cache of their own.
    """

    ids: Tensor
    full: Tensor
    lengths: Tensor | None = None
    encoded: Tensor | None = None
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    layers: Mapping[str, Tensor] = field(default_factory=dict)
    hidden: Tensor | None = None
    cache: Any = None
    mask: Tensor | None = None
    written: Tensor | None = None


@dataclass
class MemoryOutput(CausalLMOutputWithPast):
    """A causal LM output whose `past_key_values` is a `Memory`.

    recall: recall weights [B, S, N] of the call's S segments, where `output_recall=True` and the system
        recalls; slot i of row b held segment `model.retrieval.held(...)`. Rows sum to 1, or to 0 where the
        bank was empty.
    recall_loss: mean cross-entropy of the recall weights against `recall_targets`, where those were given.
    last_hidden_state: [B, kept columns, d], what the head makes logits of, where that was asked for instead.
    """

    recall: Tensor | None = None
    recall_loss: Tensor | None = None
    last_hidden_state: Tensor | None = None
