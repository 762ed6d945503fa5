"""Configuration of a toy."""

from hmt.config import MemoryConfig, strict


@strict
class ToyLengthsConfig(MemoryConfig):
    """A layout whose rows choose their own length."""

    model_type = "toy_lengths"

    most: int = 5
