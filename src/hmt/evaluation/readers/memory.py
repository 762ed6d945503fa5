"""A model with memory as a reader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hmt import backbone as bb
from hmt.backbone.flops import BackboneFlops
from hmt.evaluation.readers.asking import (
    check_continuation,
    check_segments,
    check_start,
    continued,
    token_nats,
)
from hmt.evaluation.readers.base import Reader, Stop
from hmt.memory.memory import Memory
from hmt.model.checkpoint import BackboneWrapper
from hmt.model.segments import make_grid


@dataclass(frozen=True)
class Kept:
    """A text that was read.

    Attributes:
        memory: of all but its last token.
        last: its last token (none of an empty text), which is read before what is asked: it is what the first
            token behind the text is predicted from. It takes no bytes more: the memory has room for L open
            tokens, and holds at most L - 1 of them.
    """

    memory: Memory
    last: tuple[int, ...]


class MemoryReader(Reader):
    """Any `BackboneWrapper`. Reads texts of any length."""

    model: BackboneWrapper

    def __init__(self, model: BackboneWrapper, name: str | None = None):
        self.model = model
        self.name = name or model.config.model_type
        self.bytes_carried = model.new_memory(1).nbytes
        own = sum(p.numel() for module in model.memory_modules().values() for p in module.parameters())
        lora = sum(p.numel() for name, p in model.backbone.named_parameters() if "lora_" in name)
        self.extra_parameters = own + lora
        self.unscored_head = max(1, model.lookahead)

    def flops_per_token(self, segment_length: int) -> float:
        self._check_length(segment_length)
        count = BackboneFlops.of(self.model.backbone)
        return self.model.flops_per_segment() / segment_length + count.logits(1)

    def read(self, ids: Sequence[int]) -> Kept:
        ids = list(ids)
        memory = self.model.new_memory(1) if len(ids) < 2 else self.model.read(ids[:-1])
        return Kept(memory, tuple(ids[-1:]))

    def read_many(self, texts: Sequence[Sequence[int]], batch_size: int = 1) -> Iterator[tuple[int, Kept]]:
        long = [number for number, ids in enumerate(texts) if len(ids) > 1]
        for number in set(range(len(texts))) - set(long):
            yield number, self.read(texts[number])
        heads = (list(texts[number][:-1]) for number in long)
        for place, memory in self.model.read_many(heads, batch_size=batch_size):
            yield long[place], Kept(memory, tuple(texts[long[place]][-1:]))

    def generate(
        self,
        memory: Kept,
        prompt: Sequence[int],
        max_new_tokens: int,
        stop: Stop | None = None,
        **settings: Any,
    ) -> list[int]:
        before = [*memory.last, *prompt]  # `generate` of a model with memory works on a copy
        return continued(self.model, before, max_new_tokens, stop, settings, past_key_values=memory.memory)

    @torch.no_grad()
    def logits(
        self, memory: Kept, prompt: Sequence[int], continuation: Sequence[int]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        goal = list(continuation)
        before = [*memory.last, *prompt]
        check_continuation(goal)
        check_start(before)
        own = memory.memory.copy()  # a call advances the memory that it is given
        if len(before) > 1:
            own = self.model.read(before[:-1], memory=own)
        inputs, done = [before[-1], *goal[:-1]], 0
        with bb.evaluating(self.model):
            for size in self._calls(int(own.open_lengths), len(inputs)):
                ids = torch.tensor([inputs[done : done + size]], device=own.open_ids.device)
                logits = self.model(ids, past_key_values=own, use_cache=True).logits[0].float()
                yield logits, torch.tensor(goal[done : done + size], device=logits.device)
                done += size

    def _calls(self, at: int, number: int) -> Iterator[int]:
        """How many of `number` tokens to feed together, from place `at` of a segment on.

        A frame that is made from the first `unscored_head` tokens of its segment would know them before they
        are predicted: while some are missing there, it is shown one more at a time. Else as many as the
        segment takes (which also bounds the logits).
        """
        length, alone = self.model.config.segment_length, self.unscored_head - 1
        while number:
            size = 1 if at < alone else min(number, length - at)
            yield size
            number, at = number - size, (at + size) % length

    @torch.no_grad()
    def target_nats(self, history: Tensor, target: Tensor) -> Tensor:
        check_segments(history, target)
        model, length, head = self.model, target.shape[1], self.unscored_head
        self._check_length(length)
        ids = torch.cat([history, target], dim=1)
        if model.horizon is not None:  # what lies before it changes nothing
            ids = ids[:, -(model.horizon + 1) * length :]
        memory = model.new_memory(len(ids))
        ids = ids.to(memory.open_ids.device)
        grid = make_grid(ids, None, memory.open_ids, memory.open_lengths, length)
        with bb.evaluating(model):
            for _, output in model.run(grid, memory.state, chunk=8):
                hidden = output.hidden
        nats = torch.full(target.shape, torch.nan)
        nats[:, head:] = token_nats(model.backbone, hidden[:, head - 1 : -1], target[:, head:])
        return nats

    def _check_length(self, segment_length: int) -> None:
        own = self.model.config.segment_length
        if segment_length != own:
            raise ValueError(f"{self.name} reads segments of {own} tokens, not of {segment_length}")

    @torch.no_grad()
    def recalled(self, memory: Kept, prompt: Sequence[int]) -> list[float] | None:
        retrieval, own = self.model.retrieval, memory.memory.copy()
        ids = torch.tensor([[*memory.last, *prompt]], device=own.open_ids.device)
        if retrieval is None or not ids.numel():
            return None
        before = own.state.segments.cpu()
        with bb.evaluating(self.model):
            weights = self.model(ids, past_key_values=own, use_cache=True, output_recall=True).recall
        if weights is None:
            return None
        before = before + weights.shape[1] - 1  # segments read when the last one of the call began
        found = [0.0] * int(before)
        for segment, weight in zip(retrieval.held(before)[0].tolist(), weights[0, -1].tolist(), strict=True):
            if segment >= 0:
                found[segment] = weight
        return found
