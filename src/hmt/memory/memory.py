"""Memory: what a model remembers of a batch of streams, as a transformers Cache and as a file."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Protocol

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from hmt.backbone import align_tensor
from hmt.backbone.fingerprint import Fingerprint
from hmt.memory.check import Limits, check_finite, check_memory
from hmt.memory.file import checksum, parse_safetensors, to_bytes
from hmt.memory.identity import Identity, LiveIdentity, check_same
from hmt.memory.state import MemoryState
from hmt.util.files import open_file, write_atomically
from hmt.util.integers import as_integers

FORMAT = "hmt-memory"
FORMAT_VERSION = "2"
_READ = ("1", FORMAT_VERSION)  # the checksum of version 1 covers the tensors alone


class Adopter(Protocol):
    """A model that can tell its own memories (`hmt.model.streaming.StreamingLM`)."""

    def adopt(self, memory: Memory, source: Any = ...) -> Memory: ...


@dataclass(frozen=True)
class Returned:
    """The sequence that `generate` returned a stream with.

    length: its tokens. digest: of them. tokens_read: of the stream then; it has read on where it has more.
    """

    length: int
    digest: bytes
    tokens_read: int

    @classmethod
    def of(cls, ids: Tensor, tokens_read: int) -> Returned:
        """Of a sequence int64 [n]."""
        return cls(len(ids), hashlib.sha256(ids.long().cpu().numpy().tobytes()).digest(), tokens_read)


class Memory(Cache):
    """The state of B streams plus their open segments; constant size however much was read.

    Pass it as `past_key_values` to `model(...)` or `model.generate(...)` together with *only the new* ids.
    `generate` and `read` work on a copy and leave the one they were given alone; a direct `model(...)` call
    advances it in place, as every transformers cache, or not at all where it is interrupted.

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
        self.returned: list[Returned] = []  # by row, of a memory that `generate` returned; never saved

    # -- inspection -----------------------------------------------------------------------------------------

    @property
    def segments_read(self) -> Tensor:
        """Closed segments per stream, int64 [B]."""
        return self.state.segments

    @property
    def tokens_read(self) -> Tensor:
        """Tokens per stream, those of the open segment included, int64 [B]."""
        closed = self.state.tensors.get("tokens")  # of systems whose segments may be closed early
        if closed is None:
            closed = self.state.segments * self.open_ids.shape[1]
        return closed + self.open_lengths

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

    def recall(self, text: str, tokenizer: Any = None, top: int = 4) -> list[Any]:
        """What its model recalls for a text, by weight: at most `top` of `hmt.model.recalling.Passage`.

        tokenizer: None takes the one of the model's folder or backbone. ValueError for a text that is empty
        or too long, for a memory of several streams, for a model that keeps no passages, and for a memory
        that was loaded without its model (`Memory.load(path, model=model)`).
        """
        if not isinstance(self.identity, LiveIdentity):
            raise ValueError(
                "this memory was loaded without its model: Memory.load(path, model=model) knows it"
            )
        owner: Any = self.identity.owner
        return owner.recalled_for(self, text, tokenizer, top)

    # -- copies and rows ----------------------------------------------------------------------------------

    def _like(self, state: MemoryState, open_ids: Tensor, open_lengths: Tensor) -> Memory:
        memory = Memory(state, open_ids, open_lengths, self.identity)
        memory.returned = self.returned
        return memory

    def copy(self) -> Memory:
        """An independent memory of the same streams. Tensors are shared: none is ever written in place."""
        return self._like(self.state, self.open_ids, self.open_lengths)

    def detach(self) -> Memory:
        """An independent memory of the same streams, without gradients."""
        return self._like(self.state.detach(), self.open_ids, self.open_lengths)

    def to(self, device: Any) -> Memory:
        """An independent memory of the same streams, with its tensors on `device`."""
        return self._like(self.state.to(device), self.open_ids.to(device), self.open_lengths.to(device))

    def select(self, index: Tensor | list[int]) -> Memory:
        """A memory of the streams named by `index` (int64 [R] or a list), in that order."""
        copy = self.copy()
        copy.batch_select_indices(as_integers(index, "index").to(self.open_ids.device))
        return copy

    @staticmethod
    def cat(memories: list[Memory]) -> Memory:
        """One memory whose streams are those of `memories`. ValueError if these are of different models.

        What has been run of their open segments goes with them where it can (`OpenSegment.cat`).
        """
        first, *others = (memory.identity.fingerprint for memory in memories)
        if not all(first.same(other) for other in others):
            raise ValueError("memories of different models cannot share a batch")
        together = memories[0]._like(
            MemoryState.cat([memory.state for memory in memories]),
            torch.cat([memory.open_ids for memory in memories]),
            torch.cat([memory.open_lengths for memory in memories]),
        )
        opened = [memory.open for memory in memories]
        if all(one is not None for one in opened):
            together.open = opened[0].cat(opened)
        every = all(memory.returned for memory in memories)
        together.returned = [row for memory in memories for row in memory.returned] if every else []
        return together

    @contextmanager
    def as_it_was_on_error(self) -> Iterator[None]:
        """What is interrupted in here leaves the memory as it was before, not with half of a call read."""
        before = self.state, self.open_ids, self.open_lengths
        try:
            yield
        except BaseException:
            self.state, self.open_ids, self.open_lengths = before
            self.open = None  # what has been run of the open segment is run again
            raise

    # -- what `generate` returned it with -----------------------------------------------------------------

    def note_returned(self, sequences: Tensor, real: Tensor) -> None:
        """`generate` returns it with `sequences` int64 [B, W], of which these are `real` (bool [B, W])."""
        rows = zip(sequences, real, self.tokens_read.tolist(), strict=True)
        self.returned = [Returned.of(ids[kept], tokens) for ids, kept, tokens in rows]

    def returned_with(self, ids: Tensor, real: Tensor) -> list[int]:
        """Rows whose ids (int64 [B, T], `real` bool [B, T]) begin with what they were returned with."""
        if not self.returned:
            return []
        rows = zip(self.returned, ids, real, self.tokens_read.tolist(), strict=True)
        return [
            row
            for row, (was, new, kept, tokens) in enumerate(rows)
            if was.tokens_read == tokens and was == Returned.of(new[kept][: was.length], tokens)
        ]

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
        if self.returned:
            self.returned = [self.returned[row] for row in indices.tolist()]

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

        The same memory of the same model gives the same bytes. `path` is local or any URL that fsspec knows
        (`s3://...`). ValueError as of `to_bytes`, and for a `path` that is taken by anything but a memory
        file.

        notes: further metadata of the file.
        """
        write_atomically(path, self.to_bytes(notes), "memory file")

    def to_bytes(self, notes: Mapping[str, str] | None = None, *, verify: bool = True) -> bytes:
        """What `save` writes. ValueError when the model was trained after it read this (a file must belong to
        the weights it names), and when there are numbers in it that are not finite.

        verify: read every weight again for that; False looks as `LiveIdentity.fingerprint` does, for whoever
        writes often while nobody trains.
        """
        lengths, columns = self.open_lengths[:, None], torch.arange(self.open_ids.shape[1])
        open_ids = torch.where(columns.to(lengths.device) < lengths, self.open_ids, 0)
        check_memory("the memory", self.state.tensors, open_ids, self.open_lengths)
        tensors = {f"state.{name}": value for name, value in self.state.tensors.items()}
        tensors |= {"open.ids": open_ids, "open.lengths": self.open_lengths}
        tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        identity = self.identity
        again = verify and isinstance(identity, LiveIdentity)
        made_by = identity.verified() if again else identity.fingerprint  # type: ignore[union-attr]
        metadata = {
            **(notes or {}),
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "fingerprint": str(made_by),
            "system": self.identity.system,
            "model": self.identity.model,
            "fields": json.dumps(self.identity.fields, sort_keys=True),
        }
        metadata["checksum"] = checksum(tensors, metadata)
        return to_bytes(tensors, metadata)

    @classmethod
    def load(cls, path: Any, model: Adopter | None = None) -> Memory:
        """Read a memory file, and check that it belongs to `model` (skipped when `model` is None).

        Raises ValueError when the file is damaged, of another format version, of another model, or says
        something that no memory can hold.
        """
        with open_file(path) as file:
            return cls._parse(file, path, model)

    @classmethod
    def from_bytes(cls, data: bytes, model: Adopter | None = None, source: Any = "the memory") -> Memory:
        """What `load` reads; source: what it is called in errors, which are those of `load`."""
        return cls._parse(io.BytesIO(data), source, model)

    @classmethod
    def _parse(cls, file: IO[bytes], path: Any, model: Adopter | None) -> Memory:
        def accept(metadata: dict[str, str]) -> None:
            if metadata.get("format") != FORMAT:
                raise ValueError(f"{path} is not a memory file (its metadata name no {FORMAT!r} format)")
            if (version := metadata.get("format_version")) not in _READ:
                raise ValueError(
                    f"{path} has memory format version {version!r}, this library reads "
                    f"{' and '.join(_READ)}; read the text again with this version"
                )

        metadata, tensors = parse_safetensors(file, path, accept)
        version = metadata["format_version"]
        covered = {} if version == "1" else {n: text for n, text in metadata.items() if n != "checksum"}
        if metadata.get("checksum") != checksum(tensors, covered):
            raise ValueError(f"{path} is a damaged memory file: its contents do not match their checksum")
        try:
            identity = Identity(
                Fingerprint.parse(metadata["fingerprint"]),
                metadata["system"],
                metadata["model"],
                json.loads(metadata["fields"]),
            )
            if not isinstance(identity.fields, dict):
                raise KeyError("fields")
            open_ids, open_lengths = tensors.pop("open.ids"), tensors.pop("open.lengths")
        except (KeyError, ValueError, RecursionError) as error:
            raise ValueError(
                f"{path} is a damaged memory file: {str(error)[:80]} is missing or unreadable"
            ) from error
        if unknown := [name for name in tensors if not name.startswith("state.")]:
            raise ValueError(f"{path} is damaged: it has tensors that no memory has, such as {unknown[0]}")
        state = {name.removeprefix("state."): align_tensor(t) for name, t in tensors.items()}
        check_memory(path, state, open_ids, open_lengths, identity.fields)
        memory = cls(MemoryState(state), open_ids, open_lengths, identity)
        return memory if model is None else model.adopt(memory, path)


def adopt(
    memory: Memory,
    mine: LiveIdentity,
    fresh: MemoryState,
    device: Any,
    source: Any,
    vocabulary: int | None = None,
    limits: Limits | None = None,
) -> Memory:
    """Check that `memory` was made by the model of `mine`, and move it to `device`. ValueError if it was not.

    Args:
        fresh: the state of one stream of that model that has read nothing.
        vocabulary, limits: what integers may be, see `check_memory`.
    """
    check_same(memory.identity, mine, source)
    memory = memory.to(device)
    check_memory(
        source, memory.state.tensors, memory.open_ids, memory.open_lengths, mine.fields, fresh.tensors,
        vocabulary, limits,
    )  # fmt: skip
    state = {name: tensor.to(fresh[name].dtype) for name, tensor in memory.state.tensors.items()}
    check_finite(f"{source}, in the precision of this model,", state)
    memory.state = MemoryState(state)
    memory.identity = mine
    return memory
