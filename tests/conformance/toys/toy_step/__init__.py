"""A system with a step of its own."""

from hmt.systems.registry import System

SYSTEM = System(
    name="toy_step",
    config_class="ToyStepConfig",
    model_class="ToyStepForCausalLM",
    title="A system with a step of its own.",
)
