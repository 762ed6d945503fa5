"""Fixed shapes, compiled once: the step of reading as one graph, and the backbone's pass in training.

The recurrence of a system is pure and its state has a fixed shape, so one graph serves every segment of every
text. What would change a shape is kept out of it: unfinished segments are raw ids while reading and are not
compiled elsewhere, and batches are filled up to a power of two with copies of their first stream.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel, StaticCache
from transformers.utils import logging

from hmt import backbone as bb
from hmt.memory.state import Entry, MemoryState
from hmt.model.protocol import Stepper

logger = logging.get_logger(__name__)

# Graphs per function: batches of 1, 2, 4, ... streams, each with and without streams that have just begun.
# torch's own limit of 8 counts all models of a process together.
_MOST_GRAPHS = 64
_AT = "<segment>"  # beside the rings that an entry is for


class Compilable(Stepper, Protocol):
    """What is needed of a model to compile it; methods as in `BackboneMemory`."""

    backbone: PreTrainedModel

    @property
    def encodes(self) -> bool: ...

    def passes(self) -> list[int]: ...

    def settles_after(self) -> int | None: ...

    @property
    def caching(self) -> bb.Caching: ...


class CompiledSteps:
    """The compiled functions of one model. A copy or a pickle of the model has none (None)."""

    def __init__(self, model: Compilable, mode: str | None = None, options: dict | None = None):
        cuda = model.device.type == "cuda"
        if mode == "auto":
            mode = "reduce-overhead" if cuda else None
        self.model = model
        self.failed = False
        self.lengths = set(model.passes())
        self.settles = model.settles_after()
        self.continued = model.caching.plain  # found out here, before anything is traced
        # CUDA graphs write every result to the same place: what is kept beyond the next call is copied
        self.graphs = cuda and mode in ("reduce-overhead", "max-autotune")
        own = {"fullgraph": True, "dynamic": False} | (options or {})

        def hidden(embeddings: Tensor) -> Tensor:
            return bb.run(model.backbone, embeddings).hidden

        def encode(ids: Tensor) -> Tensor | None:
            return model.encode(ids, None)

        def step(ids: Tensor, tensors: dict[str, Tensor], encoded: Tensor | None, age: int | None) -> Any:
            # what goes into a ring is handed out, and written in place outside of the graph
            state = MemoryState(tensors, (), ages=None if age is None else (age, age))
            state = model.step(ids, state, None, encoded).state
            rings = [{**entry.values, _AT: entry.at} for entry in state.pending or ()]
            return {n: t for n, t in state.tensors.items() if t is not tensors[n]}, rings

        def token(vectors: Tensor, cache: StaticCache) -> Tensor:
            return bb.run(model.backbone, vectors, cache=cache).hidden

        # no CUDA graphs in training: the outputs of many segments live until the backward pass
        without_graphs = {"reduce-overhead": None, "max-autotune": "max-autotune-no-cudagraphs"}
        trained = without_graphs.get(mode or "", mode)
        # a batch of another size is one more graph, for all sizes
        self.hidden = _OrPlain(self, hidden, {**own, "mode": trained, "dynamic": None})
        self.encode = _OrPlain(self, encode, {**own, "mode": mode})
        self.step = _OrPlain(self, step, {**own, "mode": mode})
        self.token = _OrPlain(self, token, {**own, "mode": mode})
        self.largest_chunk = 1
        # by batch size: a KV cache of fixed size and place, and the open segment that uses it now
        self.caches: dict[int, StaticCache] = {}
        self.users: dict[int, Any] = {}

    def read_segments(
        self, ids: Tensor, state: MemoryState, youngest: int, oldest: int
    ) -> Iterator[MemoryState]:
        """As `reading.read_plainly`."""
        batch = ids.shape[0]
        places = 1 << (batch - 1).bit_length()
        if places > batch:
            index = torch.arange(places, device=ids.device)
            index = torch.where(index < batch, index, 0)
            ids, state = ids.index_select(0, index), state.select(index)
        # segment by segment: every slice then has one layout, whatever it was cut from
        ids = ids.transpose(0, 1).clone(memory_format=torch.contiguous_format)
        encoded = self._encoded(ids)
        for at in range(ids.shape[0]):
            # two graphs: of a layout that no longer grows, or of any
            settled = self.settles is not None and youngest + at >= self.settles
            part = None if encoded is None else encoded[at]
            age = self.settles if settled else None
            new, rings = self._call(self.step, ids[at], dict(state.tensors), part, age)
            entries = [Entry(ring, ring.pop(_AT)) for ring in rings]
            state = MemoryState({**state.tensors, **new}, tuple(entries)).settled()
            yield state if places == batch else state.map(lambda tensor: tensor[:batch])

    def _encoded(self, ids: Tensor) -> Tensor | None:
        """ids [n, B, L] -> [n, B, ...]."""
        if not self.model.encodes:
            return None
        # whole chunks have one shape; what is left of a text is encoded segment by segment
        self.largest_chunk = max(len(ids), self.largest_chunk)
        together = ids.flatten(0, 1)[None] if len(ids) == self.largest_chunk else ids
        parts = [self._call(self.encode, rows[:, None]) for rows in together]
        return torch.cat(parts).view(*ids.shape[:2], *parts[0].shape[2:])

    # -- decoding -------------------------------------------------------------------------------------------

    def lend_cache(self, user: Any, batch: int) -> StaticCache:
        """The static cache for batches of this size, emptied. Whoever had it before has to open anew."""
        if batch not in self.caches:
            config = self.model.backbone.config.get_text_config()
            self.caches[batch] = StaticCache(config=config, max_cache_len=max(self.lengths))
        self.caches[batch].reset()
        self.users[batch] = weakref.ref(user)
        return self.caches[batch]

    def uses_cache(self, user: Any, batch: int) -> bool:
        """Whether the cache of `user` is still its own."""
        return not isinstance(user.cache, StaticCache) or (
            batch in self.users and self.users[batch]() is user
        )

    def read_token(self, vectors: Tensor, cache: StaticCache) -> Tensor:
        """Outputs [B, 1, d] of one vector per stream on top of a static cache."""
        return self._call(self.token, vectors, cache)

    def _call(self, function: Callable, *args: Any) -> Any:
        if not self.graphs:
            return function(*args)
        torch.compiler.cudagraph_mark_step_begin()
        return _cloned(function(*args))

    def __deepcopy__(self, memo: Any) -> None:
        return None

    def __reduce__(self) -> Any:
        return type(None), ()


class _OrPlain:
    """A compiled function, or the plain one from the first failure of any function of the model on."""

    def __init__(self, owner: CompiledSteps, function: Callable, options: dict):
        self.owner, self.plain = owner, function
        self.compiled: Callable = torch.compile(function, **options)

    def __call__(self, *args: Any) -> Any:
        if self.owner.failed:
            return self.plain(*args)
        from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

        try:
            with torch._dynamo.config.patch(recompile_limit=_MOST_GRAPHS):
                return self.compiled(*args)
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:
            self.owner.failed = True
            reason = " ".join(str(error).split())[:300]
            name = type(self.owner.model.backbone).__name__
            logger.warning(f"{name} cannot be compiled here and runs without: {reason}")
            return self.plain(*args)


def _cloned(result: Any) -> Any:
    """The same tensors, tuples, lists and dicts, with memory of their own."""
    if isinstance(result, Tensor):
        return result.clone()
    if isinstance(result, dict):
        return {name: _cloned(value) for name, value in result.items()}
    return type(result)(_cloned(value) for value in result) if isinstance(result, (tuple, list)) else result
