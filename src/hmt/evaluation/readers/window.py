"""The backbone with the ids of the last tokens of what it read, and with all of them that fit."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from hmt.evaluation.readers.plain import PlainReader, longest_input

ID_BYTES = 4  # of a token id that is kept


class WindowIdsReader(PlainReader):
    """The last tokens, kept as ids, and all read again with every segment: few bytes, much work.

    Args:
        budget_bytes: what the ids may take. It can be too small for one: then there is none.
        tokens: their number instead. 0 is the backbone alone.
        positions: longest input; None means that of the backbone.
    No window is longer than the positions; it is cut further where prompt and answer need them.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        budget_bytes: int | None = None,
        *,
        tokens: int | None = None,
        name: str = "window-ids",
        positions: int | None = None,
    ):
        super().__init__(backbone, name, positions)
        self.tokens = min(window_size(budget_bytes, tokens, ID_BYTES), self.positions)
        self.bytes_carried: int | None = ID_BYTES * self.tokens

    def flops_per_token(self, segment_length: int) -> float:
        return self.read_again(self.tokens, segment_length)

    def read(self, ids: Sequence[int]) -> list[int]:
        return list(ids[-max(1, self.tokens) :])  # the last token in any case, see `last`

    def chosen(self, memory: list[int], query: Sequence[int], room: int) -> list[int]:
        size = min(self.tokens, room)
        return memory[-size:] if size else []

    def last(self, memory: list[int]) -> list[int]:
        return memory[-1:]


class FullReader(WindowIdsReader):
    """Full attention over the text, and over the last `limit` tokens of a longer one: what any memory is at
    best meant to equal.

    What it keeps grows with the text: `bytes_carried` is None. `flops_per_token` is the mean over a text of
    `limit` tokens.

    Args:
        limit: longest input; None means that of the backbone.
    """

    limit: int

    def __init__(self, backbone: PreTrainedModel, limit: int | None = None, *, name: str = "full"):
        limit = limit or longest_input(backbone)
        if limit is None:
            raise ValueError("the backbone's config names no longest input; say which: limit=")
        super().__init__(backbone, tokens=limit, name=name, positions=limit)
        self.limit, self.bytes_carried = limit, None

    def flops_per_token(self, segment_length: int) -> float:
        return self.count.full_attention(self.limit) / self.limit + self.count.logits(1)


def window_size(budget_bytes: int | None, tokens: int | None, token_bytes: int) -> int:
    """Tokens of a window of so many bytes or tokens. ValueError unless one of them is given, 0 or more."""
    if (budget_bytes is None) == (tokens is None):
        raise ValueError("a window has either budget_bytes or tokens")
    if min(budget_bytes or 0, tokens or 0) < 0:
        raise ValueError("a window cannot be smaller than 0")
    return budget_bytes // token_bytes if tokens is None else tokens  # type: ignore[operator]
