"""Bytes that full attention keeps of a text."""

from __future__ import annotations


def kv_cache_bytes(text_config, tokens: int, bytes_per_value: int) -> int:
    """2 (keys, values) x layers x key-value heads x head size x bytes x tokens.

    Layers with a sliding window stop at it.
    """
    heads = getattr(text_config, "num_key_value_heads", None) or text_config.num_attention_heads
    size = (
        getattr(text_config, "head_dim", None) or text_config.hidden_size // text_config.num_attention_heads
    )
    layers = getattr(text_config, "layer_types", None) or ["full_attention"] * text_config.num_hidden_layers
    window = getattr(text_config, "sliding_window", None) or tokens
    kept = {"full_attention": tokens, "sliding_attention": min(tokens, window)}
    # kinds of layer without a KV cache (linear attention, ...) keep a constant that is not counted
    return 2 * heads * size * bytes_per_value * sum(kept.get(kind, 0) for kind in layers)
