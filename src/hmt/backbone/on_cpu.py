"""Precision and attention of a backbone on a CPU, where the caller leaves them open.

The rule looks at instructions, not at machines. For weights that are stored in bfloat16:

| x86 with | precision | attention | because |
|---|---|---|---|
| AMX | bfloat16 | the default (sdpa) | it multiplies tiles too |
| AVX512-BF16, no AMX | bfloat16 | eager | PyTorch's fused attention has no fast product there |
| neither | float32 | the default | products of bfloat16 are emulated |

Anything else (other architectures, other precisions, a machine with an accelerator) is left as transformers
loads it. `docs/backbones.md` has the measurements.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

# What a process reads as it starts: threads, and the allocator that PyTorch's large buffers come from
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "LD_PRELOAD", "MALLOC_CONF", "GLIBC_TUNABLES")


@dataclass(frozen=True)
class CPUChoice:
    """What weights stored in bfloat16 are run in.

    Attributes:
        dtype: None leaves it as it is stored.
        attention: name of an attention of transformers; None leaves the choice to it.
    """

    dtype: torch.dtype | None
    attention: str | None


def cpu_choice() -> CPUChoice:
    """The rule above, for this process."""
    able = torch.cpu.get_capabilities()
    if able.get("architecture") != "x86_64" or torch.accelerator.is_available():
        return CPUChoice(None, None)
    if able.get("amx_bf16"):
        return CPUChoice(torch.bfloat16, None)
    if able.get("avx512_bf16"):
        return CPUChoice(torch.bfloat16, "eager")
    return CPUChoice(torch.float32, None)


def suit_cpu(backbone: PreTrainedModel, given: dict[str, Any]) -> None:
    """Apply `cpu_choice` to a backbone that was just loaded.

    given: what it was loaded with; a dtype, an attention, a device map or a quantisation in it stays.
    """
    if backbone.dtype != torch.bfloat16 or {"device_map", "quantization_config"} & given.keys():
        return
    choice = cpu_choice()
    if choice.dtype is not None and not {"dtype", "torch_dtype"} & given.keys():
        torch.nn.Module.to(backbone, choice.dtype)
        backbone.config.dtype = choice.dtype
    if choice.attention is not None and "attn_implementation" not in given:
        backbone.set_attn_implementation(choice.attention)


def chosen_facts() -> dict[str, Any]:
    """For `hmt env`: what a backbone in bfloat16 is run in on the CPU, and what the environment says."""
    choice = cpu_choice()
    return {
        "backbone_dtype": None if choice.dtype is None else str(choice.dtype).removeprefix("torch."),
        "backbone_attention": choice.attention,
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }
