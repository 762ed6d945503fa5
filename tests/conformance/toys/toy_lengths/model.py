"""A system that reads again as many of the last tokens as the last of them says: rows are of any length."""

from __future__ import annotations

import torch
from hmt.systems.toy_lengths.config import ToyLengthsConfig

from hmt.memory.state import MemoryState
from hmt.model.base import BackboneMemory
from hmt.model.layout import Ids, Layout, Tokens, slide


class ToyLengthsForCausalLM(BackboneMemory):
    """State: the last tokens [B, most], segments [B]."""

    config_class = ToyLengthsConfig

    def initial_state(self, batch_size):
        ids = torch.zeros(batch_size, dtype=torch.long, device=self.input_device)
        return MemoryState({"last": ids.new_zeros(batch_size, self.config.most), "segments": ids})

    def layout(self, state, encoded):
        number = torch.where(state.segments > 0, state["last"][:, -1] % (self.config.most + 1), 0)
        return Layout([Ids(state["last"], number), Tokens()])

    def update(self, state, record):
        return state.updated(record.full, last=slide(state["last"], record.ids), segments=state.segments + 1)
