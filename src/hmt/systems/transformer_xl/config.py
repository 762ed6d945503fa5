"""Configuration of a Transformer-XL memory."""

# No `from __future__ import annotations` here: @strict does not check field types that are strings.

from typing import Any

from hmt.config import MemoryConfig, strict


@strict
class TransformerXLConfig(MemoryConfig):
    """Configuration of a Transformer-XL memory.

    Args:
        memory_length: tokens before the segment whose keys and values are kept [M]; None means one segment,
            as in the paper's training.
    """

    model_type = "transformer_xl_memory"

    memory_length: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.memory_length is None:
            self.memory_length = self.segment_length
        super().__post_init__(**kwargs)

    def check(self) -> None:
        """ValueError also for a negative number of tokens."""
        super().check()
        assert self.memory_length is not None  # filled in by __post_init__
        if self.memory_length < 0:
            raise ValueError(f"memory_length must not be negative, got {self.memory_length}")
