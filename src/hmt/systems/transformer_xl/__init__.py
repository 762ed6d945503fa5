"""Transformer-XL: cached keys and values of the tokens before."""

from hmt.systems.registry import System

SYSTEM = System(
    name="transformer_xl",
    config_class="TransformerXLConfig",
    model_class="TransformerXLForCausalLM",
    title="Transformer-XL",
    paper="Dai et al., ACL 2019, arXiv 1901.02860",
    examples={"short": {"memory_length": 5}, "long": {"memory_length": 11}},
)
