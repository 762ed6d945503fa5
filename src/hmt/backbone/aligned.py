"""Weights at addresses that matrix products do not care about.

A file's tensors are mapped where they stand in it, which is rarely a multiple of 64. On some CPUs matrix
products round differently there (by 4e-7 to 6e-7 in float32 on an AMD EPYC), so that a model and the one
loaded from its file would agree closely, and not bit for bit. PyTorch's own allocations are aligned.
"""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn

ALIGNMENT = 64  # bytes: of PyTorch's CPU allocator, and of the widest vector registers
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def align_tensor(tensor: Tensor) -> Tensor:
    """`tensor`, or a copy of it where it is on the CPU and its address is no multiple of 64 bytes."""
    return tensor.clone() if _misaligned(tensor) else tensor


@torch.no_grad()
def align(module: nn.Module) -> int:
    """Move the weights and buffers that are not aligned, one after the other; returns the bytes copied.

    Tensor objects stay the same ones, with `requires_grad` and version, and tied weights stay tied. What is
    not in the CPU's memory (another device, meta, offloaded) is left alone, and so is what is no plain
    floating-point tensor (quantised, distributed).
    """
    copies: dict[tuple, Tensor] = {}  # tied weights can also be two parameters over the same memory
    for tensor in chain(module.parameters(), module.buffers()):
        if type(tensor) in (nn.Parameter, Tensor) and tensor.dtype in _DTYPES and _misaligned(tensor):
            place = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
            if place not in copies:
                copies[place] = tensor.detach().clone()
            tensor.data = copies[place]
    return sum(copy.nbytes for copy in copies.values())


def _misaligned(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.data_ptr() % ALIGNMENT != 0
