"""StreamingLLM: attention sinks and a rolling KV cache."""

from hmt.systems.registry import System

SYSTEM = System(
    name="streaming_llm",
    config_class="StreamingLLMConfig",
    model_class="StreamingLLMForCausalLM",
    title="StreamingLLM",
    paper="Xiao et al., ICLR 2024, arXiv 2309.17453",
    examples={"": {"sinks": 2, "window_length": 9}, "sinks": {"sinks": 3, "window_length": 0}},
)
