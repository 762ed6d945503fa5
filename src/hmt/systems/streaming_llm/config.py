"""Configuration of StreamingLLM."""

# No `from __future__ import annotations` here: @strict does not check field types that are strings.

from hmt.config import MemoryConfig, strict


@strict
class StreamingLLMConfig(MemoryConfig):
    """Configuration of StreamingLLM.

    Args:
        window_length: last tokens before a segment whose keys and values are kept; 0 keeps the sinks alone.
        sinks: first tokens of the stream, whose keys and values are always kept (4 in the paper).
    """

    model_type = "streaming_llm"

    window_length: int = 512
    sinks: int = 4

    def check(self) -> None:
        """ValueError also for a negative number of tokens."""
        super().check()
        for name in ("window_length", "sinks"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
