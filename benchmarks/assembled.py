"""Memories put together from segments that were embedded before.

With `write_prompt="alone"` what a segment leaves behind depends on its own tokens only. So a hundred texts
that share their book, and differ in a few sentences, need the book to be embedded once. The memory is that of
reading the text and closing a segment at the end of each piece (`needles.py --check` reads a text so, and
compares).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hmt.memory.memory import Memory
from hmt.model.layout import slide
from hmt.systems.hmt.passages import encode_ids


class Assembled:
    """Makes memories of a model from pieces of text, each at most L tokens."""

    def __init__(self, model: Any):
        self.model = model
        self.known: dict[tuple[int, ...], torch.Tensor] = {}
        self.codes: dict[tuple[int, ...], torch.Tensor] = {}

    @torch.no_grad()
    def embed(self, pieces: Sequence[Sequence[int]], batch: int = 4096) -> torch.Tensor:
        """Memory embeddings [n, d]; batch: tokens of a pass."""
        new = sorted({tuple(piece) for piece in pieces} - self.known.keys(), key=len)
        while new:
            number = max(1, batch // len(new[-1]))
            part, new = new[-number:], new[:-number]
            lengths = torch.tensor([len(piece) for piece in part])
            ids = torch.zeros(len(part), int(lengths.max()), dtype=torch.long)
            for row, piece in zip(ids, part, strict=True):
                row[: len(piece)] = torch.tensor(piece)
            written = self.model.write(ids[None], lengths[None])[0]
            # not slices, each of which would keep the whole
            self.known |= {piece: vector.clone() for piece, vector in zip(part, written, strict=True)}
        return torch.stack([self.known[tuple(piece)] for piece in pieces])

    @torch.no_grad()
    def memory(self, pieces: Sequence[Sequence[int]]) -> Memory:
        """The memory of one stream that has read these pieces, each a segment of its own."""
        model, config = self.model, self.model.config
        memory = model.new_memory(1)
        state, count, size = memory.state, len(pieces), config.memory_size
        kept = range(max(0, count - size), count)
        slots = torch.tensor([index % size for index in kept])
        found = self.embed([pieces[index] for index in kept])
        for piece in {tuple(pieces[index]) for index in kept} - self.codes.keys():
            row = encode_ids(torch.tensor([piece]), None, config.segment_length, config.vocab_size)
            self.codes[piece] = row[0]
        codes = torch.stack([self.codes[tuple(pieces[index])] for index in kept])
        last = torch.tensor([[token for piece in pieces[-64:] for token in piece]])
        new = {
            "bank": state["bank"].index_copy(1, slots, found[None]),
            "passages": state["passages"].index_copy(1, slots, codes[None]),
            "latest": found[-1:],
            "sensory": slide(state["sensory"], last),
            "segments": state.segments + count,
            "tokens": state["tokens"] + sum(map(len, pieces)),
        }
        state = type(state)({name: new.get(name, tensor) for name, tensor in state.tensors.items()})
        return Memory(state, memory.open_ids, memory.open_lengths, memory.identity)
