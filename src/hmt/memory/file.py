"""Tensors and words in one safetensors file: the same bytes for the same content, and nothing taken on trust.

safetensors writes its metadata in any order, reads a header of any size before it looks at it, and notices no
changed byte in its data. Here the header is sorted, is small before anything else is read, and everything is
covered by a checksum.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from hmt.util.files import PathLike, open_file

#: Bytes of a header at most: two tensors for each of 200 layers are some forty thousand.
MOST_HEADER = 2**18
# what a tensor of a memory may be made of, by safetensors' names
_TYPES = ("I64", "I32", "I16", "F32", "F16", "BF16", "F64", "BOOL")


def to_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file of contiguous tensors on the CPU, its header sorted."""
    data = save(dict(tensors), dict(metadata))
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + data[end:]


def read_safetensors(
    path: PathLike, accept: Callable[[dict[str, str]], object] = lambda metadata: None
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a file; see `parse_safetensors`."""
    with open_file(path) as file:
        return parse_safetensors(file, path, accept)


def parse_safetensors(
    file: IO[bytes], path: Any, accept: Callable[[dict[str, str]], object] = lambda metadata: None
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of an open file. ValueError when it is cut short or not one at all.

    A header that is too large, or that does not describe the whole file, is refused before more is read.

    Args:
        path: what the file is called in errors.
        accept: called with the metadata before a tensor is read; what it raises is raised.
    """
    with _damage(path):
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > size - 8:
            raise ValueError("it ends before its header does")
        if length > MOST_HEADER:
            raise ValueError(f"its header has {length:,} bytes, and {MOST_HEADER:,} are the most")
        text = file.read(length)
        metadata, content = _header(text)
        if 8 + length + content != size:
            raise ValueError(f"it has {size:,} bytes, and its header speaks of {8 + length + content:,}")
    accept(metadata)
    with _damage(path):
        return metadata, load(start + text + file.read(content))


@contextmanager
def _damage(path: PathLike) -> Iterator[None]:
    try:
        yield
    except (SafetensorError, ValueError, RecursionError) as error:
        why = "its header is no plain JSON" if isinstance(error, RecursionError) else error
        raise ValueError(f"{path} is truncated or not a safetensors file ({why})") from error


def _header(text: bytes) -> tuple[dict[str, str], int]:
    """Metadata, and the bytes of all tensors together. ValueError for anything but that."""
    header: Any = json.loads(text)
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata are no words")
    content = 0
    for name, entry in header.items():
        if not isinstance(entry, dict) or entry.get("dtype") not in _TYPES:
            kind = entry.get("dtype") if isinstance(entry, dict) else entry
            raise ValueError(
                f"its tensor {name} is of {str(kind)[:40]}, and should be of {', '.join(_TYPES)}"
            )
        offsets = entry.get("data_offsets")
        if not isinstance(offsets, list) or not all(type(offset) is int for offset in offsets):
            raise ValueError(f"its header does not say where the tensor {name} is")
        content = max([content, *offsets])
    return metadata, content


def checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> str:
    """SHA-256 of metadata, and of names, shapes and bytes of tensors."""
    digest = hashlib.sha256()
    if metadata:
        digest.update(json.dumps(dict(metadata), sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
