"""An update that sees the outputs at the tokens."""

from hmt.systems.registry import System

SYSTEM = System(
    name="toy_hidden",
    config_class="ToyHiddenConfig",
    model_class="ToyHiddenForCausalLM",
    title="An update that sees the outputs at the tokens.",
)
