"""Configuration of a window that is read again."""

# No `from __future__ import annotations` here: @strict does not check field types that are strings.

from hmt.config import MemoryConfig, strict


@strict
class WindowConfig(MemoryConfig):
    """Configuration of the window baseline.

    Args:
        window_length: raw tokens before the segment that are read again; 0 is the plain backbone per segment.
    """

    model_type = "memory_window"
    option_names = {"sensory_length": "window_length"}

    window_length: int = 512

    def check(self) -> None:
        """ValueError also for a negative number of tokens."""
        super().check()
        if self.window_length < 0:
            raise ValueError(f"window_length must not be negative, got {self.window_length}")
