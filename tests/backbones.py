"""Tiny random causal LMs of different families: 2 layers, 32 wide, 97 tokens, seeded, in eval mode."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCAB = 97

_COMMON = {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0}
_LLAMA_LIKE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}

_FAMILIES = {
    "llama": ("llama", _LLAMA_LIKE),
    "llama-tied": ("llama", _LLAMA_LIKE | {"tie_word_embeddings": True}),
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}),
    "opt": (
        "opt",
        {
            "hidden_size": 48,
            "word_embed_proj_dim": 32,
            "ffn_dim": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
            "do_layer_norm_before": False,  # as in OPT-350m, the released model with two widths
        },
    ),
    "qwen3": ("qwen3", _LLAMA_LIKE | {"head_dim": 8}),
    "gemma2": (
        "gemma2",
        _LLAMA_LIKE
        | {
            "head_dim": 8,
            "query_pre_attn_scalar": 8,
            "sliding_window": 6,
            "attn_logit_softcapping": 5.0,
            "final_logit_softcapping": 3.0,
            "tie_word_embeddings": True,
        },
    ),
    "gpt_neox": (
        "gpt_neox",
        {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 128,
        },
    ),
    "bloom": ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
}

FAMILIES = [name for name in _FAMILIES if name != "llama-tied"]


def tiny_backbone(family: str = "llama", seed: int = 0) -> PreTrainedModel:
    """A causal LM of `family`, no parameter at its initial value so that none can be left out unseen."""
    model_type, fields = _FAMILIES[family]
    config = AutoConfig.for_model(model_type, **_COMMON | fields)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def random_ids(length: int, seed: int = 0) -> torch.Tensor:
    """int64 [length], without the special tokens 0 to 2."""
    return torch.randint(3, VOCAB, (length,), generator=torch.Generator().manual_seed(seed))
