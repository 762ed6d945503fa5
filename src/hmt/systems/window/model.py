"""The backbone with nothing but the raw tokens of what came just before: the baseline every memory must beat.

With `window_length` = the sensory length of an HMT it is the "sensory only" row of every table; with a longer
window it is a backbone with a sliding window, read in steps of L tokens. No new parameters.
"""

# No `from __future__ import annotations` here: @strict does not check field types that are strings.

import torch
from torch import Tensor

from hmt.backbone import embedding_table
from hmt.config import MemoryConfig, strict
from hmt.memory.state import MemoryState
from hmt.model.base import SegmentMemoryModel
from hmt.model.layout import Frame, slide, tokens_seen


@strict
class WindowConfig(MemoryConfig):
    """Configuration of the window baseline.

    Args:
        window_length: raw tokens before the segment that are read again; 0 is the plain backbone per segment.
    """

    model_type = "memory_window"
    option_names = {"sensory_length": "window_length"}

    window_length: int = 512

    @property
    def raw_tokens(self) -> int:
        return self.window_length

    def check(self) -> None:
        super().check()
        if self.window_length < 0:
            raise ValueError(f"window_length must not be negative, got {self.window_length}")


class WindowForCausalLM(SegmentMemoryModel):
    """A backbone that reads again the last `window_length` tokens. State: window ids [B, w], segments [B]."""

    config_class = WindowConfig
    sizes = ("window_length",)

    @property
    def horizon(self) -> int:
        return -(-self.config.window_length // self.config.segment_length)

    def initial_state(self, batch_size: int) -> MemoryState:
        device = embedding_table(self.backbone).weight.device
        window = torch.zeros(batch_size, self.config.window_length, dtype=torch.long, device=device)
        segments = torch.zeros(batch_size, dtype=torch.long, device=device)
        return MemoryState({"window": window, "segments": segments})

    def frame(self, state: MemoryState, prepared: Tensor | None) -> Frame:
        table = embedding_table(self.backbone)
        none = table.weight.new_zeros(state.batch_size, 0, table.embedding_dim)
        seen = tokens_seen(state.segments, self.config.segment_length, self.config.window_length)
        return Frame(none, none, state["window"], seen)

    def absorb(self, state, outputs, segment, full, prepared) -> MemoryState:
        return state.updated(full, window=slide(state["window"], segment), segments=state.segments + 1)
