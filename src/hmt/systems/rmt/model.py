"""Recurrent Memory Transformer (Bulatov et al., NeurIPS 2022, arXiv 2207.06881), as a decoder wrapper.

Per segment: H = BBM([mem | tokens | mem]); the outputs at the trailing m positions are the next `mem`. The
first `mem` is learned. Memory tokens attend causally, as in the authors' own wrapper for decoders.
`sensory_length` is not in the paper: it gives RMT the raw last tokens that HMT has, so that the two can
be told apart.
"""

from __future__ import annotations

import torch

from hmt.backbone import Vectors
from hmt.memory.state import MemoryState
from hmt.model.base import BackboneMemory
from hmt.model.layout import Embeds, Ids, Layout, Tokens, slide
from hmt.model.outputs import SegmentRecord
from hmt.systems.rmt.config import RMTConfig


class RMTForCausalLM(BackboneMemory):
    """A backbone with m recurrent memory vectors: memory [B, m, d], sensory ids [B, k], segments [B]."""

    config_class = RMTConfig

    def add_modules(self, width: int) -> None:
        """The first `mem`, [m, d]."""
        self.first_prompt = Vectors(self.config.num_memory_tokens, width)

    def initial_state(self, batch_size: int) -> MemoryState:
        """Memory at zero (not used before it is written), sensory ids and segments int64."""
        like, ids = self.first_prompt.weight, torch.zeros(batch_size, dtype=torch.long)
        return MemoryState(
            {
                "memory": like.new_zeros(batch_size, *like.shape).detach(),
                "sensory": ids.new_zeros(batch_size, self.config.sensory_length, device=like.device),
                "segments": ids.to(like.device),
            }
        )

    def layout(self, state: MemoryState, encoded: torch.Tensor | None) -> Layout:
        """[mem | sensory | tokens | mem]: the m vectors stand at both ends."""
        config, first = self.config, self.first_prompt(state.batch_size)
        memory = torch.where(
            (state.segments > 0)[:, None, None], state["memory"] * config.memory_scale, first
        )
        sensory = Ids(state["sensory"], state.number(config.segment_length, config.sensory_length))
        return Layout([Embeds(memory), sensory, Tokens(), Embeds(memory, keep="write")])

    def update(self, state: MemoryState, record: SegmentRecord) -> MemoryState:
        """The next `mem` is H at the trailing m positions."""
        return state.updated(
            record.full,
            memory=record.kept["write"],
            sensory=slide(state["sensory"], record.ids),
            segments=state.segments + 1,
        )
