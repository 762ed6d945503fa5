"""The backbones that are measured: published shapes with random weights, or trained ones."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from hmt.backbone import is_here, load_backbone, locate
from hmt.bench.settings import Settings
from hmt.systems import load_model, of_type, register
from hmt.util.devices import find_device

_LLAMA = {"num_key_value_heads": None, "max_position_embeddings": 2**20, "tie_word_embeddings": True}

# model type, fields of its config. The last two are the published config.json of Qwen/Qwen3-0.6B and
# meta-llama/Llama-3.2-1B.
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny": (
        "llama",
        _LLAMA
        | {
            "vocab_size": 1024,
            "hidden_size": 128,
            "intermediate_size": 352,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
        },
    ),
    "small": (
        "llama",
        _LLAMA
        | {
            "vocab_size": 8192,
            "hidden_size": 512,
            "intermediate_size": 1408,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
        },
    ),
    "qwen3-0.6b": (
        "qwen3",
        {
            "vocab_size": 151936,
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 40960,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
            "tie_word_embeddings": True,
        },
    ),
    "llama-3.2-1b": (
        "llama",
        {
            "vocab_size": 128256,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 32.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
            "tie_word_embeddings": True,
        },
    ),
}


def resolve(settings: Settings) -> Settings:
    """The same settings with everything filled in that depends on the device.

    ValueError for a device or a shape that is not there.
    """
    device = find_device(settings.device)
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"--device {device}: cpu and cuda are measured; other devices have no clock here")
    gpu = device.type == "cuda"
    shape = settings.shape
    if settings.backbone is None and shape is None:
        shape = "qwen3-0.6b" if gpu else "small"
    if shape is not None and shape not in SHAPES:
        raise ValueError(f"--shape: there is no {shape!r}; choose among {', '.join(SHAPES)}")
    most = settings.full_attention_max or (131072 if gpu else 32768)
    read = settings.decode_read
    if read is None:
        read = settings.decode_after[-1] if gpu else 16
    return replace(
        settings,
        device=str(device),
        shape=shape,
        dtype=settings.dtype or ("bfloat16" if gpu else "float32"),
        full_attention_max=most,
        decode_read=read,
    )


def build_backbone(settings: Settings) -> PreTrainedModel:
    """The backbone of resolved settings, in eval mode on its device; random weights depend on the seed.

    ValueError where it cannot be loaded, or the attention is not installed.
    """
    kwargs: dict[str, Any] = {"dtype": getattr(torch, settings.dtype or "float32")}
    if settings.attn is not None:
        kwargs["attn_implementation"] = settings.attn
    try:
        backbone = (
            _random(settings, kwargs) if settings.backbone is None else _trained(settings.backbone, kwargs)
        )
    except ImportError as error:  # an attention implementation whose package is not there
        raise ValueError(f"--attn {settings.attn}: {error}") from error
    return backbone.to(settings.device).eval()  # type: ignore[arg-type]


def _random(settings: Settings, kwargs: dict[str, Any]) -> PreTrainedModel:
    assert settings.shape is not None  # filled in by resolve
    model_type, fields = SHAPES[settings.shape]
    config = AutoConfig.for_model(model_type, **fields)
    torch.manual_seed(settings.seed)
    with torch.device(settings.device or "cpu"):
        return AutoModelForCausalLM.from_config(config, **kwargs)


def _trained(path: str, kwargs: dict[str, Any]) -> PreTrainedModel:
    if not is_here(path) and not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", path):
        raise ValueError(f"--backbone {path} is not there; name the folder of a model, or a hub id")
    register()
    try:
        if of_type(AutoConfig.from_pretrained(locate(path)).model_type):
            return load_model(path, **kwargs).backbone
        return load_backbone(path, **kwargs)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"--backbone {path} is no folder with a model, nor one on the hub: {reason}"
        ) from error
