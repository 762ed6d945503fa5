"""A system with nothing but a step: the mean embedding of what was read stands in front of a segment."""

from __future__ import annotations

import torch
from hmt.systems.toy_step.config import ToyStepConfig

from hmt import backbone as bb
from hmt.memory.state import MemoryState
from hmt.model.checkpoint import BackboneWrapper
from hmt.model.outputs import StepOutput


class ToyStepForCausalLM(BackboneWrapper):
    """State: mean [B, d], segments [B]."""

    config_class = ToyStepConfig

    def add_modules(self, width):
        self.first = bb.Vectors(1, width)

    def initial_state(self, batch_size):
        like, ids = self.first.weight, torch.zeros(batch_size, dtype=torch.long)
        mean = like.new_zeros(batch_size, like.shape[1]).detach()
        return MemoryState({"mean": mean, "segments": ids.to(like.device)})

    def step(self, segment, state, lengths=None, encoded=None):
        tokens = self.get_input_embeddings()(segment)
        front = torch.where(
            (state.segments > 0)[:, None, None], state["mean"][:, None], self.first(len(tokens))
        )
        hidden = bb.run(self.backbone, torch.cat([front, tokens], dim=1)).hidden[:, 1:]
        full = torch.full_like(state.segments, segment.shape[1]) if lengths is None else lengths
        mean = (state["mean"] + tokens.mean(1)) / 2
        state = state.updated(full == self.segment_length, mean=mean, segments=state.segments + 1)
        return StepOutput(hidden, state)
