"""Every system and full attention with the same face: read, keep, answer, decode."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from hmt import backbone as bb
from hmt.bench.settings import Settings
from hmt.memory.memory import Memory
from hmt.memory.state import MemoryState
from hmt.model.base import BackboneMemory
from hmt.systems import System, systems


def benched() -> dict[str, tuple[System, dict[str, Any]]]:
    """What can be measured, by the name it has on the command line: a system, and fields of its config."""
    return {
        "-".join(filter(None, (system.name, variant))): (system, dict(fields))
        for system in systems().values()
        for variant, fields in system.bench.items()
    }


def system_names() -> tuple[str, ...]:
    """What `--systems` can name."""
    return (*benched(), "full")


def chosen_systems(settings: Settings) -> list[str]:
    """The systems to measure, in the order of `system_names`. ValueError for a name that is none."""
    known = system_names()
    for name in settings.systems:
        if name not in known:
            raise ValueError(f"--systems: there is no {name!r}; choose among {', '.join(known)}")
    return [name for name in known if not settings.systems or name in settings.systems]


def build_model(name: str, backbone: PreTrainedModel, settings: Settings) -> BackboneMemory:
    """A system around the (shared) backbone; sizes that it has and does not set itself are the settings'."""
    torch.manual_seed(settings.seed)
    system, own = benched()[name]
    sizes = {"sensory_length": settings.sensory_length, "memory_size": settings.memory_size}
    has = {field.name for field in dataclasses.fields(system.config)}
    fields = {size: value for size, value in sizes.items() if size in has} | own
    model = system.model.from_backbone(backbone, segment_length=settings.segment_length, **fields)
    if settings.compile:
        model.compile_steps()
    return model.eval()


class MemoryReader:
    """A system with memory. What it keeps of a text is a `Memory`."""

    def __init__(self, model: BackboneMemory, chunk: int):
        self.model, self.chunk = model, chunk

    def read(self, ids: Tensor) -> Memory:
        """int64 [B, T] into a new memory."""
        return self.model.read(ids, chunk=self.chunk)

    def first_token(self, ids: Tensor, kept: Memory | None = None) -> Tensor:
        """The token after `ids`, int64 [B, 1]: whole segments are read, the last one gives the logits."""
        cut = (ids.shape[1] - 1) // self.model.config.segment_length * self.model.config.segment_length
        memory = kept
        if cut:
            memory = self.model.read(ids[:, :cut], memory=kept, chunk=self.chunk)
        return self._logits(ids[:, cut:], memory)[:, -1:].argmax(-1)

    def next_token(self, token: Tensor, kept: Memory) -> Tensor:
        """Append int64 [B, 1] to `kept`, in place; the token after it."""
        return self._logits(token, kept)[:, -1:].argmax(-1)

    def copy(self, kept: Memory) -> Memory:
        """An independent memory, which `next_token` may advance."""
        return kept.copy()

    @torch.no_grad()
    def _logits(self, ids: Tensor, memory: Memory | None) -> Tensor:
        return self.model(ids, past_key_values=memory, use_cache=True, logits_to_keep=1).logits

    @torch.no_grad()
    def after(self, segments: int, read: int, ids: Tensor) -> Memory:
        """A memory of `segments` segments, the first `read` of them really read from ids int64 [B, n L].

        The last of those is then left behind again and again without being run, which fills the memory as
        reading does: every shape and every counter is that of a memory that has read it all.
        """
        model, length = self.model, self.model.segment_length
        read = max(1, min(segments, read))
        memory = model.read(ids[:, : (read - 1) * length], chunk=self.chunk) if read > 1 else None
        memory = model.new_memory(len(ids)) if memory is None else memory
        last, state = ids[:, (read - 1) * length : read * length], memory.state
        encoded = model.encode_one(last, None)
        record = model.read_segment(last, state.aged(read - 1, read - 1), None, encoded)[2]
        assert record is not None  # of a whole segment there is one
        for _ in range(read - 1, segments):
            state = model.update(state, replace(record, cache=copy.deepcopy(record.cache)))
        memory.state = MemoryState(state.tensors)
        return memory


@dataclass
class KeptText:
    """Full attention's keys and values, and the output at the last token [B, 1, d]."""

    cache: Any
    last: Tensor


class FullAttentionReader:
    """The plain backbone on transformers' own KV cache, prefilled `chunk` tokens at a time, without head."""

    def __init__(self, backbone: PreTrainedModel, chunk: int, compile: bool = False):
        self.backbone, self.chunk = backbone, chunk
        # a wrapper of its own: the systems share these weights and must not run compiled through it
        self._call: Any = torch.compile(bb.body(backbone)) if compile else bb.body(backbone)

    @torch.no_grad()
    def hidden(self, ids: Tensor, cache: Any) -> Iterator[Tensor]:
        """Outputs [B, n, d] of one chunk after the other of ids int64 [B, T], on top of `cache`."""
        for part in ids.split(self.chunk, dim=1):
            yield self._call(
                inputs_embeds=bb.embed(self.backbone, part),
                past_key_values=cache,
                use_cache=True,
                return_dict=True,
            ).last_hidden_state

    def new_cache(self) -> Any:
        """An empty `DynamicCache` for the backbone's layers."""
        return DynamicCache(config=self.backbone.config.get_text_config())

    def read(self, ids: Tensor) -> KeptText:
        """int64 [B, T] into new keys and values."""
        cache, last = self.new_cache(), None
        for hidden in self.hidden(ids, cache):
            last = hidden[:, -1:]
        assert last is not None  # there are no empty texts
        return KeptText(cache, last.clone())

    @torch.no_grad()
    def token_after(self, kept: KeptText) -> Tensor:
        """The token after what was read, int64 [B, 1]."""
        return bb.head(self.backbone, kept.last).argmax(-1)

    def first_token(self, ids: Tensor, kept: KeptText | None = None) -> Tensor:
        """The token after `ids` int64 [B, T], int64 [B, 1]; `kept` is appended to in place."""
        if kept is None:
            return self.token_after(self.read(ids))
        return self.next_token(ids, kept)

    def next_token(self, token: Tensor, kept: KeptText) -> Tensor:
        """Append int64 [B, n] to `kept`, in place; the token after them, int64 [B, 1]."""
        for hidden in self.hidden(token, kept.cache):
            kept.last = hidden[:, -1:]
        return self.token_after(kept)

    def copy(self, kept: KeptText) -> KeptText:
        """Keys and values of its own, which `next_token` may append to."""
        return KeptText(copy.deepcopy(kept.cache), kept.last)


Reader = MemoryReader | FullAttentionReader
