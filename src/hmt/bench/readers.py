"""Every system and full attention with the same face: read, keep, answer, decode."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, get_args

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from hmt import backbone as bb
from hmt.bench.settings import Settings
from hmt.memory.memory import Memory
from hmt.model.base import SegmentMemoryModel
from hmt.systems.hmt.model import HMTConfig, HMTForCausalLM
from hmt.systems.rmt.model import RMTForCausalLM


def recall_queries() -> tuple[str, ...]:
    """The values that HMT's `recall_query` can take."""
    kinds = {field.name: field.type for field in fields(HMTConfig)}
    return get_args(kinds["recall_query"])


def system_names() -> tuple[str, ...]:
    """What `--systems` can name."""
    return (*(f"hmt-{query}" for query in recall_queries()), "rmt", "full")


def chosen_systems(settings: Settings) -> list[str]:
    """The systems to measure, in the order of `system_names`. ValueError for a name that is none."""
    known = system_names()
    for name in settings.systems:
        if name not in known:
            raise ValueError(f"--systems: there is no {name!r}; choose among {', '.join(known)}")
    return [name for name in known if not settings.systems or name in settings.systems]


def build_model(name: str, backbone: PreTrainedModel, settings: Settings) -> SegmentMemoryModel:
    """A system around the (shared) backbone; RMT as published: one memory token, no raw tokens."""
    torch.manual_seed(settings.seed)
    length = settings.segment_length
    model: SegmentMemoryModel
    if name == "rmt":
        model = RMTForCausalLM.from_backbone(backbone, segment_length=length)
    else:
        model = HMTForCausalLM.from_backbone(
            backbone,
            segment_length=length,
            sensory_length=settings.sensory_length,
            memory_size=settings.memory_size,
            recall_query=name.removeprefix("hmt-"),
        )
    if settings.compile and (compile_steps := getattr(model, "compile_steps", None)):
        compile_steps()
    return model.eval()


class MemoryReader:
    """A system with memory. What it keeps of a text is a `Memory`."""

    def __init__(self, model: SegmentMemoryModel, chunk: int):
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
        return kept.copy()

    @torch.no_grad()
    def _logits(self, ids: Tensor, memory: Memory | None) -> Tensor:
        return self.model(ids, past_key_values=memory, use_cache=True, logits_to_keep=1).logits

    @torch.no_grad()
    def after(self, segments: int, read: int, ids: Tensor) -> Memory:
        """A memory of `segments` segments, the first `read` of them really read from ids int64 [B, n L].

        The others are absorbed with random vectors in place of the backbone's outputs, which fills the memory
        as reading does: every shape and every counter is that of a memory that has read it all.
        """
        model, length = self.model, self.model.config.segment_length
        read = max(1, min(segments, read))
        memory = self.model.read(ids[:, : read * length], chunk=self.chunk)
        table = bb.embedding_table(model.backbone).weight
        batch, last = ids.shape[0], ids[:, :length]
        full = torch.ones(batch, dtype=torch.bool, device=ids.device)
        if segments == read:
            return memory
        prepared = model.prepare_one(last, full * length)
        suffix = model.frame(memory.state, prepared).suffix.shape[1]
        for _ in range(segments - read):
            outputs = torch.randn(batch, suffix, table.shape[1], dtype=table.dtype, device=table.device)
            memory.state = model.absorb(memory.state, outputs, last, full, prepared)
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
        self._call: Any = torch.compile(backbone.base_model) if compile else backbone.base_model

    @torch.no_grad()
    def hidden(self, ids: Tensor, cache: Any) -> Iterator[Tensor]:
        """Outputs [B, n, d] of one chunk after the other of ids int64 [B, T], on top of `cache`."""
        table = self.backbone.get_input_embeddings()
        for part in ids.split(self.chunk, dim=1):
            yield self._call(
                inputs_embeds=table(part), past_key_values=cache, use_cache=True, return_dict=True
            ).last_hidden_state

    def new_cache(self) -> Any:
        return DynamicCache(config=self.backbone.config.get_text_config())

    def read(self, ids: Tensor) -> KeptText:
        cache, last = self.new_cache(), None
        for hidden in self.hidden(ids, cache):
            last = hidden[:, -1:]
        assert last is not None  # there are no empty texts
        return KeptText(cache, last.clone())

    @torch.no_grad()
    def token_after(self, kept: KeptText) -> Tensor:
        return bb.head(self.backbone, kept.last).argmax(-1)

    def first_token(self, ids: Tensor, kept: KeptText | None = None) -> Tensor:
        if kept is None:
            return self.token_after(self.read(ids))
        return self.next_token(ids, kept)

    def next_token(self, token: Tensor, kept: KeptText) -> Tensor:
        for hidden in self.hidden(token, kept.cache):
            kept.last = hidden[:, -1:]
        return self.token_after(kept)

    def copy(self, kept: KeptText) -> KeptText:
        return KeptText(copy.deepcopy(kept.cache), kept.last)


Reader = MemoryReader | FullAttentionReader
