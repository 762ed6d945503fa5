"""Files that are either whole or untouched, and folders that one process at a time writes into."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor


def _is_url(path) -> bool:
    return "://" in str(path)


def write_atomically(path, data: bytes) -> None:
    """Write `data` beside `path` and rename it into place: a crash or a full disk leaves the old file.

    URLs go through fsspec, where an object appears whole or not at all on the usual stores.
    """
    if _is_url(path):
        import fsspec

        with fsspec.open(str(path), "wb") as file:
            file.write(data)
        return
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; give the result the permissions any new file would have
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def only_writer(folder: str | os.PathLike, advice: str = "choose another folder") -> Iterator[None]:
    """Lets one process at a time write into `folder`, which is created if it is missing.

    The lock ends with the process, however it ends. ValueError, with `advice`, while another one holds it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout as error:
        if error.lock_file != str(folder / ".lock"):
            raise
        raise ValueError(f"another run is writing to {folder}; wait for it, or {advice}") from None


def read_bytes(path) -> bytes:
    """All bytes of a local file or an fsspec URL; ValueError when there is no such file."""
    if _is_url(path):
        import fsspec

        with fsspec.open(str(path), "rb") as file:
            return file.read()
    if not Path(path).is_file():
        raise ValueError(f"there is no file {path}")
    return Path(path).read_bytes()


def read_safetensors(path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file; ValueError when it is cut short or not one at all."""
    data = read_bytes(path)
    try:
        tensors = load(data)
        header = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + header]).get("__metadata__", {})
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is truncated or not a safetensors file ({error})") from error
    return metadata, tensors


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes and bytes: safetensors itself does not notice a changed byte in its data."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
