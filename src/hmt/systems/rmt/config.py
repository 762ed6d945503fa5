"""Configuration of a Recurrent Memory Transformer."""

# No `from __future__ import annotations` here: @strict does not check field types that are strings.

from hmt.config import MemoryConfig, strict


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
        """ValueError also for no memory tokens, or a negative number of raw tokens."""
        super().check()
        if self.num_memory_tokens < 1:
            raise ValueError(f"num_memory_tokens must be at least 1, got {self.num_memory_tokens}")
        if self.sensory_length < 0:
            raise ValueError(f"sensory_length must not be negative, got {self.sensory_length}")
