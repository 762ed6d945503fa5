"""Configuration of a toy."""

from hmt.config import MemoryConfig, strict


@strict
class ToyHiddenConfig(MemoryConfig):
    """An update that sees the outputs at the tokens."""

    model_type = "toy_hidden"
