"""A layout whose rows choose their own length."""

from hmt.systems.registry import System

SYSTEM = System(
    name="toy_lengths",
    config_class="ToyLengthsConfig",
    model_class="ToyLengthsForCausalLM",
    title="A layout whose rows choose their own length.",
)
