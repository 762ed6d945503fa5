"""Whether the tensors of a memory can be a memory at all, and one of this model.

What a tensor may hold follows from what it is: the state of a stream that has read nothing says names, shapes
and kinds of numbers; floats are finite, `segments` counts, other integers are token ids (or what
`StreamingLM.state_limits` says), rows are streams. So every system is checked by the same few lines.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Limits = Mapping[str, tuple[int, int]]

#: Segments that no stream has read: products with it stay far below 2^63.
MOST_SEGMENTS = 2**40
MOST_INTEGER = 2**63 - 1
_SHORT = (torch.int32, torch.int16)


def check_memory(
    source: Any,
    state: Mapping[str, Tensor],
    open_ids: Tensor,
    open_lengths: Tensor,
    fields: Mapping[str, Any] | None = None,
    fresh: Mapping[str, Tensor] | None = None,
    vocabulary: int | None = None,
    limits: Limits | None = None,
) -> None:
    """ValueError, with `source` and the tensor, for anything that no reading leaves behind.

    Args:
        state, open_ids, open_lengths: as in `Memory`. fields: of the configuration, for `segment_length`.
        fresh: the state of one stream of the model, where there is one: names, shapes and kinds.
        vocabulary: token ids are below it. limits: least and most of integers that are no token ids, by name.
    Waits for the device.
    """
    if fresh is not None:
        _check_names(source, state, fresh)
    tensors = {**state, "open ids": open_ids, "open lengths": open_lengths}
    shapes = {"segments": 1, "open ids": 2, "open lengths": 1}
    for name, tensor in tensors.items():
        if tensor.dim() < 1 or tensor.dim() != shapes.get(name, tensor.dim()):
            raise _damaged(source, name, f"has the shape {list(tensor.shape)}")
    streams = {name: tensor.shape[0] for name, tensor in tensors.items()}
    if len(set(streams.values())) != 1 or 0 in streams.values():
        raise ValueError(f"{source} is damaged: its tensors hold these numbers of streams: {streams}")
    if "segments" not in state:
        raise ValueError(f"{source} is damaged: nothing in it counts segments")
    length = open_ids.shape[1]
    if length < 1 or length != (fields or {}).get("segment_length", length):
        raise _damaged(source, "open ids", f"has room for {length} tokens, which is no segment of this model")
    ids = (0, MOST_INTEGER if vocabulary is None else vocabulary - 1)
    integers = {"segments": (0, MOST_SEGMENTS), "open lengths": (0, length - 1), "open ids": ids}
    anything = (-MOST_INTEGER - 1, MOST_INTEGER)  # what it may be is for the model to say
    for name, tensor in tensors.items():
        if tensor.dtype in (torch.long, *([] if name in integers else _SHORT)):
            other = anything if vocabulary is None else (limits or {}).get(name, ids)
            _check_range(source, name, tensor, *integers.get(name, other))
        elif name in integers or not _is_plain(tensor):
            raise _damaged(source, name, f"holds {tensor.dtype}")
    check_finite(source, tensors)


def check_finite(source: Any, tensors: Mapping[str, Tensor]) -> None:
    """ValueError for a float that is infinite or not a number. Waits for the device."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise _damaged(source, name, "holds numbers that are not finite")


def _check_names(source: Any, state: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> None:
    want = {name: list(tensor.shape[1:]) for name, tensor in fresh.items()}
    have = {name: list(tensor.shape[1:]) for name, tensor in state.items()}
    for name in sorted({**want, **have}):
        if want.get(name) != have.get(name):
            told = f"{have.get(name, 'missing')}, and this model needs {want.get(name, 'none')}"
            raise ValueError(f"{source} is damaged: the shape of a stream's {name} is {told}")
        ours, theirs = fresh[name].dtype, state[name].dtype
        if ours != theirs and not (ours.is_floating_point and theirs.is_floating_point):
            raise _damaged(source, name, f"holds {theirs}, and this model needs {ours}")


def _is_plain(tensor: Tensor) -> bool:
    return tensor.dtype == torch.bool or tensor.dtype.is_floating_point


def _check_range(source: Any, name: str, tensor: Tensor, least: int, most: int) -> None:
    if tensor.numel():
        low, high = (int(value) for value in torch.aminmax(tensor))
        if low < least or high > most:
            value = low if low < least else high
            told = f"{least} to {most}" if most < MOST_INTEGER else f"{least} or more"
            raise _damaged(source, name, f"holds {value}, and should hold {told}")


def _damaged(source: Any, name: str, what: str) -> ValueError:
    return ValueError(f"{source} is damaged: its tensor {name} {what}")
