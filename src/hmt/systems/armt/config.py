"""Configuration of an Associative Recurrent Memory Transformer."""

# No `from __future__ import annotations` here: @strict does not check field types that are strings.

from hmt.config import MemoryConfig, strict


@strict
class ARMTConfig(MemoryConfig):
    """Configuration of an ARMT.

    Args:
        num_memory_tokens: memory tokens at the end of a segment, whose outputs are written [m].
        memory_dim: width of a key before DPFP-3 makes six times as many features of it [d_mem].
        sensory_length: raw tokens of the previous segment that are read again (0 in the paper).
    """

    model_type = "armt"

    num_memory_tokens: int = 10
    memory_dim: int = 64
    sensory_length: int = 0

    def check(self) -> None:
        """ValueError also for no memory tokens, keys without width, or a negative number of raw tokens."""
        super().check()
        for name in ("num_memory_tokens", "memory_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.sensory_length < 0:
            raise ValueError(f"sensory_length must not be negative, got {self.sensory_length}")
