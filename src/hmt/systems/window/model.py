"""The backbone with nothing but the raw tokens of what came just before: the baseline every memory must beat.

With `window_length` = the sensory length of an HMT it is the "sensory only" row of every table; with a longer
window it is a backbone with a sliding window, read in steps of L tokens. No new parameters.
"""

from __future__ import annotations

import torch

from hmt.memory.state import MemoryState
from hmt.model.base import BackboneMemory
from hmt.model.layout import Ids, Layout, Tokens, slide
from hmt.model.outputs import SegmentRecord
from hmt.systems.window.config import WindowConfig


class WindowForCausalLM(BackboneMemory):
    """A backbone that reads again the last `window_length` tokens. State: window ids [B, w], segments [B]."""

    config_class = WindowConfig
    sizes = ("window_length",)

    @property
    def horizon(self) -> int:
        """Segments that the window reaches into, the oldest perhaps in part."""
        return -(-self.config.window_length // self.config.segment_length)

    def initial_state(self, batch_size: int) -> MemoryState:
        """An empty window: ids int64 [B, w]."""
        ids = torch.zeros(batch_size, dtype=torch.long, device=self.input_device)
        return MemoryState({"window": ids.new_zeros(batch_size, self.config.window_length), "segments": ids})

    def layout(self, state: MemoryState, encoded: torch.Tensor | None) -> Layout:
        """[window | tokens]: as many of the last w tokens as there are."""
        config = self.config
        return Layout(
            [Ids(state["window"], state.number(config.segment_length, config.window_length)), Tokens()]
        )

    def update(self, state: MemoryState, record: SegmentRecord) -> MemoryState:
        """The window slides on by the L tokens of the segment."""
        return state.updated(
            record.full, window=slide(state["window"], record.ids), segments=state.segments + 1
        )
