"""Configuration of a toy."""

from hmt.config import MemoryConfig, strict


@strict
class ToyStepConfig(MemoryConfig):
    """A system with a step of its own."""

    model_type = "toy_step"
