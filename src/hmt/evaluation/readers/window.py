"""The backbone with the last tokens of what it read: the memory that every other one is compared with."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from hmt.backbone.flops import causal_pairs
from hmt.evaluation.memory_use import kv_cache_bytes
from hmt.evaluation.readers.plain import PlainReader

ID_BYTES = 4  # of a token id that is kept


class WindowReader(PlainReader):
    """A sliding window, as large as a number of bytes allows.

    As a KV cache, the usual way, its tokens are read once, and a token takes what its keys and values do. As
    ids (`ids=True`) it holds many more tokens in as many bytes, and reads them all again with every segment:
    bytes and `flops_per_token` tell the two apart. Both predict alike, by a pass over the window and what
    follows it.

    Args:
        backbone: a Hugging Face causal LM.
        budget_bytes: what the window may take. It can be too small for one token: then there is none.
        tokens: its length instead. 0 is the backbone alone.
        name: None makes one.
        ids: keep token ids, not keys and values.
        positions: longest input; None means that of the backbone.
    No window is longer than the positions; it is cut further where prompt and answer need them.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        budget_bytes: int | None = None,
        *,
        tokens: int | None = None,
        name: str | None = None,
        ids: bool = False,
        positions: int | None = None,
    ):
        if (budget_bytes is None) == (tokens is None):
            raise ValueError("a window has either budget_bytes or tokens")
        if min(budget_bytes or 0, tokens or 0) < 0:
            raise ValueError("a window cannot be smaller than 0")
        super().__init__(backbone, name or ("window-ids" if ids else "window"), positions)
        self.ids = ids
        if budget_bytes is not None:
            tokens = self._affordable(budget_bytes)
        assert tokens is not None
        self.tokens = min(tokens, self.positions)
        self.bytes_carried = self._bytes(self.tokens)

    def _bytes(self, tokens: int) -> int:
        if self.ids:
            return ID_BYTES * tokens
        return kv_cache_bytes(self.backbone.config.get_text_config(), tokens, self.backbone.dtype.itemsize)

    def _affordable(self, budget: int) -> int:
        """The most tokens in so many bytes: no division, as layers with their own window stop growing."""
        low, high = 0, min(self.positions, budget)  # a token takes a byte or more
        if high and not self._bytes(1):
            raise ValueError(
                "this backbone keeps no KV cache that grows with the text; use ids=True or tokens="
            )
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._bytes(middle) <= budget else (low, middle - 1)
        return low

    def flops_per_token(self, segment_length: int) -> float:
        if self.ids:
            return self.read_again(self.tokens, segment_length)
        kept = min(self.tokens, max(0, self.positions - segment_length))
        work = self.count.forward(segment_length, causal_pairs(segment_length, before=kept))
        return work / segment_length + self.count.logits(1)

    def read(self, ids: Sequence[int]) -> list[int]:
        return list(ids[-max(1, self.tokens) :])  # the last token in any case, see `last`

    def chosen(self, memory: list[int], query: Sequence[int], room: int) -> list[int]:
        size = min(self.tokens, room)
        return memory[-size:] if size else []

    def last(self, memory: list[int]) -> list[int]:
        return memory[-1:]
