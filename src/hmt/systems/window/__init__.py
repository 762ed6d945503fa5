"""The backbone with the raw tokens of what came just before."""

from hmt.systems.registry import System

SYSTEM = System(
    name="window",
    config_class="WindowConfig",
    model_class="WindowForCausalLM",
    title="Window of raw tokens, read again",
    examples={"0": {"window_length": 0}, "short": {"window_length": 5}, "long": {"window_length": 11}},
    bench={},
)
