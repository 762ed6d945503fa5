"""The backbone with the keys and values of the last tokens of what it read, and of the first ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hmt import backbone as bb
from hmt.backbone.flops import causal_pairs
from hmt.evaluation.readers.asking import (
    check_continuation,
    check_segments,
    check_start,
    end_tokens,
    predictions,
    token_nats,
)
from hmt.evaluation.readers.base import Stop
from hmt.evaluation.readers.plain import BackboneReader
from hmt.evaluation.readers.window import window_size
from hmt.util.kv_cache import kv_cache_bytes


@dataclass(frozen=True)
class Kept:
    """A text that was read. No question changes it.

    Attributes:
        content: keys and values of all but its last token, as far as they are kept.
        last: that token (none of an empty text), which is read before what is asked: the first token behind
            the text is predicted from it.
    """

    content: bb.KeptKV | None
    last: tuple[int, ...]


class RollingReader(BackboneReader):
    """A rolling cache of keys and values (`hmt.backbone.rolling`), with attention sinks or without.

    A token is read once, in chunks; then its keys and values stay until newer ones push them out. They carry
    something of what was before the window, layer by layer, which a window of ids that are read again lacks.
    A token sees what was kept before its chunk, and its chunk so far: `chunk` is to a rolling cache what the
    segment is to a memory. Reading, answers and their likelihoods run on the same cache, which always is
    emptied after `chunk` tokens, however they come.

    Args:
        budget_bytes: what keys and values may take. It can be too small for one token: then there is none.
        tokens: how many tokens' instead, sinks included.
        sinks: how many of them are the first of the text (StreamingLLM: 4).
        chunk: tokens that are read before the oldest ones are forgotten.
        name: None makes one.
        positions: longest input; None means that of the backbone. Cache and chunk together never exceed it.
    ValueError, naming the family, for a backbone whose keys cannot be moved (learned positions).
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        budget_bytes: int | None = None,
        *,
        tokens: int | None = None,
        sinks: int = 0,
        chunk: int = 64,
        name: str | None = None,
        positions: int | None = None,
    ):
        super().__init__(backbone, name or ("sinks" if sinks else "window"), positions)
        if sinks < 0 or chunk < 1:
            raise ValueError(f"sinks are 0 or more and a chunk 1 or more tokens, got {sinks} and {chunk}")
        self._places = bb.KeyPositions.of(backbone)
        size = kv_cache_bytes(backbone.config.get_text_config(), 1, backbone.dtype.itemsize)
        self.chunk = min(chunk, max(1, self.positions // 2))
        self.tokens = min(window_size(budget_bytes, tokens, size), self.positions - self.chunk)
        self.sinks = min(sinks, self.tokens)
        self.bytes_carried = size * self.tokens

    def flops_per_token(self, segment_length: int) -> float:
        work = self.count.forward(self.chunk, causal_pairs(self.chunk, before=self.tokens))
        return work / self.chunk + self.count.logits(1)

    @torch.no_grad()
    def read(self, ids: Sequence[int]) -> Kept:
        return Kept(self._read(torch.tensor([list(ids[:-1])], dtype=torch.long)), tuple(ids[-1:]))

    @torch.no_grad()
    def generate(
        self,
        memory: Kept,
        prompt: Sequence[int],
        max_new_tokens: int,
        stop: Stop | None = None,
        **settings: Any,
    ) -> list[int]:
        ends = end_tokens(self.model, settings.pop("eos_token_id", None))
        if settings:
            raise ValueError(
                f"{self.name} always writes the likeliest token; it has no {', '.join(sorted(settings))}"
            )
        unread, new = [*memory.last, *prompt], list[int]()
        check_start(unread)
        stream = _Stream(self, memory.content)
        while len(new) < max_new_tokens:
            hidden = stream.feed(torch.tensor([unread]))[0, -1:]
            unread = bb.head(self.model, hidden).argmax(-1).tolist()
            if unread[0] in ends:
                break
            new += unread
            if stop is not None and stop(new):
                break
        return new

    @torch.no_grad()
    def logits(
        self, memory: Kept, prompt: Sequence[int], continuation: Sequence[int]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        before, goal = [*memory.last, *prompt], list(continuation)
        check_continuation(goal)
        check_start(before)
        hidden = _Stream(self, memory.content).feed(torch.tensor([before + goal[:-1]]))
        yield from predictions(self.model, hidden[0, len(before) - 1 :], torch.tensor(goal))

    @torch.no_grad()
    def target_nats(self, history: Tensor, target: Tensor) -> Tensor:
        check_segments(history, target)
        content = self._read(history[:, :-1])
        inputs = torch.cat([history[:, -1:], target[:, :-1]], dim=1)
        hidden = _Stream(self, content).feed(inputs)
        nats = torch.full(target.shape, torch.nan)
        first = hidden.shape[1] - target.shape[1] + 1
        nats[:, 1:] = token_nats(self.model, hidden[:, first:], target[:, 1:])
        return nats

    def _read(self, ids: Tensor) -> bb.KeptKV | None:
        """What is kept of rows int64 [B, T]; None of empty ones."""
        if not self.sinks:  # what is further back than this reaches no output any more
            reach = len(self._places.layers) * (self.tokens + self.chunk)
            ids = ids[:, max(0, ids.shape[1] - reach) // self.chunk * self.chunk :]
        if not ids.shape[1]:
            return None
        stream = _Stream(self, None)
        stream.feed(ids)
        return stream.content()


class _Stream:
    """Rows of equal length on a rolling cache that is emptied after every `chunk` tokens."""

    def __init__(self, reader: RollingReader, content: bb.KeptKV | None):
        self.reader, self.open = reader, 0
        window = reader.tokens - reader.sinks
        self.cache = bb.RollingCache(reader._places, window, reader.sinks, content)

    def feed(self, ids: Tensor) -> Tensor:
        """Outputs [B, n, d] of the next tokens, int64 [B, n], at least one."""
        backbone, found = self.reader.model, []
        ids = ids.to(bb.embedding_table(backbone).weight.device)
        with bb.evaluating(backbone):
            while ids.shape[1]:
                part, ids = ids.tensor_split([self.reader.chunk - self.open], dim=1)
                vectors = bb.embed(backbone, part)
                found.append(bb.run(backbone, vectors, cache=self.cache).hidden)
                self.open += part.shape[1]
                if self.open == self.reader.chunk:
                    self.cache.evict()
                    self.open = 0
        return torch.cat(found, dim=1)

    def content(self) -> bb.KeptKV:
        if self.open:
            self.cache.evict()
        return self.cache.content()
