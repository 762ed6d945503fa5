"""A short name for the weights of a model, so that a memory can tell whose it is."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

_SAMPLES = 64  # values taken from each tensor, evenly spread: training moves every tensor it touches


@torch.no_grad()
def fingerprint(model: nn.Module) -> str:
    """SHA-256 (16 hex digits) over names, shapes and a sample of all parameters.

    Values are rounded to bfloat16 first, so that a checkpoint has one fingerprint in fp32 and in bf16.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.named_parameters()):
        flat = value.detach().flatten()
        stride = max(1, flat.numel() // _SAMPLES)
        sample = flat[::stride][:_SAMPLES].to(torch.bfloat16).view(torch.int16)
        digest.update(f"{name}{tuple(value.shape)}".encode())
        digest.update(sample.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
