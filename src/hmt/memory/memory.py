"""Memory: what a model remembers of a batch of streams, as a transformers Cache and as a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from safetensors.torch import save
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from hmt.backbone import align_tensor
from hmt.backbone.fingerprint import Fingerprint
from hmt.memory.identity import Identity, LiveIdentity, check_same
from hmt.memory.state import MemoryState
from hmt.util.files import checksum, read_safetensors, write_atomically

FORMAT = "hmt-memory"
FORMAT_VERSION = "1"


class Adopter(Protocol):
    """A model that can tell its own memories (`hmt.model.streaming.StreamingLM`)."""

    def adopt(self, memory: Memory, source: Any = ...) -> Memory: ...


class Memory(Cache):
    """The state of B streams plus their open segments; constant size however much was read.

    Pass it as `past_key_values` to `model(...)` or `model.generate(...)` together with *only the new* ids.
    `generate` and `read` work on a copy and leave the one they were given alone; a direct `model(...)` call
    advances it in place, as every transformers cache.

    Attributes:
        state: closed segments (`MemoryState`).
        open_ids: int64 [B, L], raw tokens of the open segment, 0 beyond `open_lengths`.
        open_lengths: int64 [B], 0..L-1.
    """

    def __init__(
        self, state: MemoryState, open_ids: Tensor, open_lengths: Tensor, identity: Identity | LiveIdentity
    ):
        # The one stock layer is never written: transformers asks a cache for layers when it describes it.
        super().__init__(layers=[DynamicLayer()])
        self.state = state
        self.open_ids = open_ids
        self.open_lengths = open_lengths
        self.identity = identity
        self.open: Any = None  # the open segment while it is decoded: scratch, never saved
        self.columns_fed = 0  # columns of generate()'s growing input_ids that are already in this memory

    # -- inspection -----------------------------------------------------------------------------------------

    @property
    def segments_read(self) -> Tensor:
        """Closed segments per stream, int64 [B]."""
        return self.state.segments

    @property
    def tokens_read(self) -> Tensor:
        """Tokens per stream, those of the open segment included, int64 [B]."""
        return self.state.segments * self.open_ids.shape[1] + self.open_lengths

    @property
    def nbytes(self) -> int:
        """Bytes of what is kept (state and open ids; the open segment's keys and values are scratch)."""
        return self.state.nbytes + self.open_ids.nbytes + self.open_lengths.nbytes

    @property
    def batch_size(self) -> int:
        """Streams, B."""
        return self.state.batch_size

    def info(self) -> dict:
        """Plain values that describe this memory: streams, segments, tokens, bytes, model, fields.

        `fingerprint` is None when the model was trained since: no model has the weights it belongs to.
        """
        outdated = isinstance(self.identity, LiveIdentity) and self.identity.outdated
        return {
            "streams": self.batch_size,
            "segments_read": self.segments_read.tolist(),
            "tokens_read": self.tokens_read.tolist(),
            "open_tokens": self.open_lengths.tolist(),
            "bytes": self.nbytes,
            "system": self.identity.system,
            "model": self.identity.model,
            "fingerprint": None if outdated else self.identity.fingerprint.values[:16],
            "fields": self.identity.fields,
            "tensors": {name: list(tensor.shape) for name, tensor in self.state.tensors.items()},
        }

    def __repr__(self) -> str:
        return (
            f"Memory({self.identity.system}, streams={self.batch_size}, "
            f"segments={self.segments_read.tolist()}, "
            f"tokens={self.tokens_read.tolist()}, {self.nbytes:,} bytes)"
        )

    # -- copies and rows ----------------------------------------------------------------------------------

    def copy(self) -> Memory:
        """An independent memory of the same streams. Tensors are shared: none is ever written in place."""
        return Memory(self.state, self.open_ids, self.open_lengths, self.identity)

    def detach(self) -> Memory:
        """An independent memory of the same streams, without gradients."""
        return Memory(self.state.detach(), self.open_ids, self.open_lengths, self.identity)

    def to(self, device: Any) -> Memory:
        """An independent memory of the same streams, with its tensors on `device`."""
        return Memory(
            self.state.to(device), self.open_ids.to(device), self.open_lengths.to(device), self.identity
        )

    def select(self, index: Tensor | list[int]) -> Memory:
        """A memory of the streams named by `index` (int64 [R] or a list), in that order."""
        copy = self.copy()
        copy.batch_select_indices(torch.as_tensor(index, device=self.open_ids.device))
        return copy

    @staticmethod
    def cat(memories: list[Memory]) -> Memory:
        """One memory whose streams are those of `memories`. ValueError if these are of different models."""
        first, *others = (memory.identity.fingerprint for memory in memories)
        if not all(first.same(other) for other in others):
            raise ValueError("memories of different models cannot share a batch")
        return Memory(
            MemoryState.cat([memory.state for memory in memories]),
            torch.cat([memory.open_ids for memory in memories]),
            torch.cat([memory.open_lengths for memory in memories]),
            memories[0].identity,
        )

    # -- the Cache contract -------------------------------------------------------------------------------

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens of the longest stream, open segment included; every layer has the same."""
        return int(self.tokens_read.max())

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the streams named by `indices` (int64 [R]), in that order, in place; repeats are allowed."""
        self.state = self.state.select(indices)
        self.open_ids = self.open_ids.index_select(0, indices)
        self.open_lengths = self.open_lengths.index_select(0, indices)
        if self.open is not None and not self.open.select(indices):
            self.open = None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep the streams of the beams that go on, int64 [B], in place."""
        self.batch_select_indices(beam_idx.to(self.open_ids.device))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Every stream `repeats` times, copies side by side, in place."""
        index = torch.arange(self.batch_size, device=self.open_ids.device).repeat_interleave(repeats)
        self.batch_select_indices(index)

    def reset(self) -> None:
        """ValueError, always: to start again, pass no memory."""
        raise ValueError("a Memory is not reset in place; start again with past_key_values=None")

    def crop(self, tokens_to_remove: int) -> None:
        """ValueError unless nothing is to be removed: what became memory cannot be taken out."""
        if tokens_to_remove:
            raise ValueError(
                "tokens cannot be taken out of a memory; keep a copy() from before they were read"
            )

    @property
    def is_croppable(self) -> bool:
        """False: what was read cannot be rolled back."""
        return False

    @property
    def is_compileable(self) -> bool:
        """False: keeps `generate` from compiling by itself; `compile_steps` does it."""
        return False

    # -- the file -----------------------------------------------------------------------------------------

    def save(self, path: Any, notes: Mapping[str, str] | None = None) -> None:
        """Write one safetensors file. The old file survives a full disk or a kill: write, then rename.

        `path` is local or any URL that fsspec knows (`s3://...`). ValueError when the model was trained after
        it read this: a file must belong to the weights it names.

        notes: further metadata of the file.
        """
        tensors = {f"state.{name}": value for name, value in self.state.tensors.items()}
        tensors |= {"open.ids": self.open_ids, "open.lengths": self.open_lengths}
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        identity = self.identity
        made_by = identity.verified() if isinstance(identity, LiveIdentity) else identity.fingerprint
        metadata = {
            **(notes or {}),
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "fingerprint": str(made_by),
            "system": self.identity.system,
            "model": self.identity.model,
            "fields": json.dumps(self.identity.fields, sort_keys=True),
            "checksum": checksum(tensors),
        }
        write_atomically(path, save(tensors, metadata))

    @classmethod
    def load(cls, path: Any, model: Adopter | None = None) -> Memory:
        """Read a memory file, and check that it belongs to `model` (skipped when `model` is None).

        Raises ValueError when the file is damaged, of another format version, or of another model.
        """
        metadata, tensors = read_safetensors(path)
        if metadata.get("format") != FORMAT:
            raise ValueError(f"{path} is not a memory file (its metadata name no {FORMAT!r} format)")
        if metadata.get("format_version") != FORMAT_VERSION:
            raise ValueError(
                f"{path} has memory format version {metadata.get('format_version')!r}, this library reads "
                f"{FORMAT_VERSION!r}; read the text again with this version"
            )
        if metadata.get("checksum") != checksum(tensors):
            raise ValueError(f"{path} is a damaged memory file: its contents do not match their checksum")
        try:
            identity = Identity(
                Fingerprint.parse(metadata["fingerprint"]),
                metadata["system"],
                metadata["model"],
                json.loads(metadata["fields"]),
            )
            state = {
                n.removeprefix("state."): align_tensor(t)
                for n, t in tensors.items()
                if n.startswith("state.")
            }
            memory = cls(MemoryState(state), tensors["open.ids"], tensors["open.lengths"], identity)
            memory.info()
        except (KeyError, AttributeError, ValueError) as error:
            raise ValueError(
                f"{path} is a damaged memory file: {error!r} is missing or unreadable"
            ) from error
        return memory if model is None else model.adopt(memory, path)


def adopt(memory: Memory, mine: LiveIdentity, fresh: MemoryState, device: Any, source: Any) -> Memory:
    """Check that `memory` was made by the model of `mine`, and move it to `device`. ValueError if it was not.

    fresh: the state of one stream of that model that has read nothing.
    """
    check_same(memory.identity, mine, source)
    want = {name: tensor.shape[1:] for name, tensor in fresh.tensors.items()}
    have = {name: tensor.shape[1:] for name, tensor in memory.state.tensors.items()}
    if want != have:
        raise ValueError(f"{source} is damaged: its tensors have shapes {have}, this model needs {want}")
    memory = memory.to(device)
    memory.state = MemoryState({n: t.to(fresh[n].dtype) for n, t in memory.state.tensors.items()})
    memory.identity = mine
    return memory
