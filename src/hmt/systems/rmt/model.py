"""Recurrent Memory Transformer (Bulatov et al., NeurIPS 2022, arXiv 2207.06881), as a decoder wrapper.

Per segment: H = BBM([mem | tokens | mem]); the outputs at the trailing m positions are the next `mem`. The
first `mem` is learned. Memory tokens attend causally, as in the authors' own wrapper for decoders.
`sensory_length` is not in the paper: it gives RMT the raw last tokens that HMT has, so that the two can
be told apart.
"""

# No `from __future__ import annotations` here: @strict does not check field types that are strings.

import torch
from torch import Tensor

from hmt.backbone import Vectors
from hmt.config import MemoryConfig, strict
from hmt.memory.state import MemoryState
from hmt.model.base import SegmentMemoryModel
from hmt.model.layout import Frame, slide, tokens_seen


@strict
class RMTConfig(MemoryConfig):
    """Configuration of an RMT.

    Args:
        num_memory_tokens: memory vectors [m].
        sensory_length: raw tokens of the previous segment that are read again (0 in the paper).
    """

    model_type = "rmt"
    option_names = {"memory_size": "num_memory_tokens"}

    num_memory_tokens: int = 1
    sensory_length: int = 0

    def check(self) -> None:
        super().check()
        if self.num_memory_tokens < 1:
            raise ValueError(f"num_memory_tokens must be at least 1, got {self.num_memory_tokens}")
        if self.sensory_length < 0:
            raise ValueError(f"sensory_length must not be negative, got {self.sensory_length}")


class RMTForCausalLM(SegmentMemoryModel):
    """A backbone with m recurrent memory vectors: memory [B, m, d], sensory ids [B, k], segments [B]."""

    config_class = RMTConfig

    def add_modules(self, width: int) -> None:
        self.first_prompt = Vectors(self.config.num_memory_tokens, width)

    def initial_state(self, batch_size: int) -> MemoryState:
        config, like = self.config, self.first_prompt.weight
        return MemoryState(
            {
                "memory": like.new_zeros(batch_size, *like.shape).detach(),
                "sensory": torch.zeros(
                    batch_size, config.sensory_length, dtype=torch.long, device=like.device
                ),
                "segments": torch.zeros(batch_size, dtype=torch.long, device=like.device),
            }
        )

    def frame(self, state: MemoryState, prepared: Tensor | None) -> Frame:
        config = self.config
        started = (state.segments > 0)[:, None, None]
        memory = torch.where(
            started, state["memory"] * config.memory_scale, self.first_prompt(state.batch_size)
        )
        seen = tokens_seen(state.segments, config.segment_length, config.sensory_length)
        return Frame(memory, memory, state["sensory"], seen)

    def absorb(self, state, outputs, segment, full, prepared) -> MemoryState:
        return state.updated(
            full, memory=outputs, sensory=slide(state["sensory"], segment), segments=state.segments + 1
        )
