"""StreamingLLM (Xiao et al., ICLR 2024, arXiv 2309.17453): attention sinks and a rolling KV cache.

Keys and values of the first tokens of a stream and of the last ones are kept, and positions are places in the
cache. The authors evict after every token; here a segment of L tokens is read at once and then evicted, so a
token sees the sinks, the window, and its own segment up to itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from hmt.model.kv_memory import KVMemory
from hmt.systems.streaming_llm.config import StreamingLLMConfig


class StreamingLLMForCausalLM(KVMemory):
    """A backbone that attends to its first and last tokens; state as of `KVMemory`, no weights of its own."""

    config_class = StreamingLLMConfig
    sizes = ("window_length",)
    cannot: ClassVar[Mapping[str, str]] = {
        "train": "it has no weights of its own and is used with a backbone as it is; transformer_xl is the "
        "trained memory of this kind"
    }

    @property
    def window(self) -> int:
        """`window_length` of the config."""
        return self.config.window_length

    @property
    def sinks(self) -> int:
        """`sinks` of the config."""
        return self.config.sinks
