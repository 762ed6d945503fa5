"""A system whose memory is the mean of the outputs at the tokens of the last segment."""

from __future__ import annotations

import torch
from hmt.systems.toy_hidden.config import ToyHiddenConfig

from hmt.backbone import Vectors
from hmt.memory.state import MemoryState
from hmt.model.base import BackboneMemory
from hmt.model.layout import Embeds, Layout, Tokens


class ToyHiddenForCausalLM(BackboneMemory):
    """State: mean [B, d], segments [B]."""

    config_class = ToyHiddenConfig
    records_hidden = True

    def add_modules(self, width):
        self.first = Vectors(1, width)

    def initial_state(self, batch_size):
        like, ids = self.first.weight, torch.zeros(batch_size, dtype=torch.long)
        mean = like.new_zeros(batch_size, like.shape[1]).detach()
        return MemoryState({"mean": mean, "segments": ids.to(like.device)})

    def layout(self, state, encoded):
        first = self.first(state.batch_size)
        mean = torch.where((state.segments > 0)[:, None, None], state["mean"][:, None], first)
        return Layout([Embeds(mean), Tokens()])

    def update(self, state, record):
        return state.updated(record.full, mean=record.hidden.mean(1), segments=state.segments + 1)
