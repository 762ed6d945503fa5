"""Associative Recurrent Memory Transformer."""

from hmt.systems.registry import System

SYSTEM = System(
    name="armt",
    config_class="ARMTConfig",
    model_class="ARMTForCausalLM",
    title="Associative Recurrent Memory Transformer",
    paper="Rodkin et al., 2024, arXiv 2407.04841",
    examples={
        "": {"num_memory_tokens": 2, "memory_dim": 4},
        "wide": {"num_memory_tokens": 3, "memory_dim": 6, "sensory_length": 3},
    },
    bench={"": {"sensory_length": 0}},
)
