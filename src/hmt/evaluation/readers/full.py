"""The backbone with the whole text: what any memory is at best meant to equal."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from hmt.evaluation.readers.plain import PlainReader, longest_input


class FullReader(PlainReader):
    """Full attention over the text, and over the last `limit` tokens of a longer one.

    What it keeps grows with the text: `bytes_carried` is None. `flops_per_token` is the mean over a text of
    `limit` tokens.

    Args:
        limit: longest input; None means that of the backbone.
    """

    limit: int

    def __init__(self, backbone: PreTrainedModel, limit: int | None = None, *, name: str = "full"):
        if limit is None and longest_input(backbone) is None:
            raise ValueError("the backbone's config names no longest input; say which: limit=")
        super().__init__(backbone, name, limit)
        self.limit = self.positions
        self.bytes_carried = None

    def flops_per_token(self, segment_length: int) -> float:
        return self.count.full_attention(self.limit) / self.limit + self.count.logits(1)

    def read(self, ids: Sequence[int]) -> list[int]:
        return list(ids[-self.limit :])

    def chosen(self, memory: list[int], query: Sequence[int], room: int) -> list[int]:
        return memory[-room:] if room else []

    def last(self, memory: list[int]) -> list[int]:
        return memory[-1:]
