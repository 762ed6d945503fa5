"""Transformer-XL (Dai et al., ACL 2019, arXiv 1901.02860), as a memory for any backbone with rotary keys.

Per segment and layer: queries of the L new tokens attend to keys and values of the last M tokens and to their
own. What is kept carries no gradient: each segment trains by itself (TBPTT of one segment).

Two things differ from the paper. Positions are the backbone's own rotary embedding, at places in the cache,
not the relative encoding with u, v and R. And keys and values are kept, not the layer inputs they were made
of: outputs are the same, but W_k and W_v get no gradient from memory positions.
"""

from __future__ import annotations

from hmt.model.kv_memory import KVMemory
from hmt.systems.transformer_xl.config import TransformerXLConfig


class TransformerXLForCausalLM(KVMemory):
    """A backbone that attends to keys and values of the last `memory_length` tokens; see `KVMemory`."""

    config_class = TransformerXLConfig
    sizes = ("memory_length",)
    keeps_gradients = False

    @property
    def window(self) -> int:
        """`memory_length` of the config, M in the paper."""
        return self.config.memory_length
