"""Integers of any width, in tensors, arrays and lists, as the int64 that everything here computes with."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def as_integers(values: Any, name: str) -> Tensor:
    """A tensor, an array or (nested) lists as an int64 tensor where they are; what is empty is an integer.

    ValueError, with `name`, for anything but integers (True is none), and where no tensor can be made of it.
    """
    if isinstance(values, Tensor):
        dtype = values.dtype
        if values.numel() and (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool):
            raise ValueError(f"{name} must be integers, got {dtype}")
        return values.long()
    what = f"{name} must be integers; this {type(values).__name__}"
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{what} is not: {error}") from error
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"{what} is of {array.dtype}")
    return torch.from_numpy(array.astype(np.int64))  # of any byte order and stride
