"""Recurrent Memory Transformer."""

from hmt.systems.registry import System

SYSTEM = System(
    name="rmt",
    config_class="RMTConfig",
    model_class="RMTForCausalLM",
    title="Recurrent Memory Transformer",
    paper="Bulatov et al., NeurIPS 2022, arXiv 2207.06881",
    examples={
        "1": {"num_memory_tokens": 1},
        "2": {"num_memory_tokens": 2, "memory_scale": 0.7},
        "1-sensory": {"num_memory_tokens": 1, "sensory_length": 3},
        "2-sensory": {"num_memory_tokens": 2, "sensory_length": 3},
    },
    bench={"": {"sensory_length": 0}},  # as published: one memory token, no raw tokens
)
