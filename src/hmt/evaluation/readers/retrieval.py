"""The backbone with passages of the text that share words with the question (BM25)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from hmt.evaluation.readers.plain import PlainReader

_WORD = re.compile(r"\w+")
_PASSAGE_BYTES = 4  # where a passage ends


@dataclass(frozen=True)
class Kept:
    """The last of a text.

    Attributes:
        passages: in text order. recent: the tokens behind them, the last ones of the text.
    Ids, not text, so that nothing is tokenised twice; what counts as carried is the text they stand for.
    """

    passages: tuple[tuple[int, ...], ...]
    recent: tuple[int, ...]


class BM25Reader(PlainReader):
    """Retrieval of raw text: `[best passages, in text order][last tokens][question]`.

    It carries the last `budget_bytes` bytes of the text (UTF-8, and 4 bytes for each passage). The BM25 index
    (Lucene's variant, k1 = 1.5, b = 0.75, lower-case words) is made anew from it at every question and is not
    counted.

    Where a prompt is empty, the last tokens of the text are the query. `target_nats` asks with the last
    segment of the history, or with the head of the target. The last segment finds its own passages first,
    as far as they do not stand there raw: what is near is what predicts best.

    Args:
        passage_tokens: length of a passage.
        top: passages put before a question; those that share no word with it never are. Of equal scores the
            earlier passage wins.
        recent: last tokens of the text that always stand before the question.
        query_tokens: ask `target_nats` with so many tokens of the target's head, which are not scored.
        positions: longest input; None means that of the backbone.
    """

    bytes_carried: int

    def __init__(
        self,
        backbone: PreTrainedModel,
        tokenizer: Any,
        budget_bytes: int,
        *,
        passage_tokens: int = 64,
        top: int = 4,
        recent: int = 32,
        query_tokens: int | None = None,
        positions: int | None = None,
        name: str = "bm25",
    ):
        sizes = {"budget_bytes": budget_bytes, "passage_tokens": passage_tokens, "top": top, "recent": recent}
        if query_tokens is not None:
            sizes["query_tokens"] = query_tokens
        for field, value in sizes.items():
            if value < 1:
                raise ValueError(f"{field} must be at least 1, got {value}")
        _library()  # missing, it is missed before anything was read
        super().__init__(backbone, name, positions)
        self.tokenizer = tokenizer
        self.passage_tokens, self.top, self.recent = passage_tokens, top, recent
        self.query_tokens = query_tokens
        self.unscored_head = query_tokens or 1
        self.bytes_carried = budget_bytes

    def flops_per_token(self, segment_length: int) -> float:
        return self.read_again(self.top * self.passage_tokens + self.recent, segment_length)

    def read(self, ids: Sequence[int]) -> Kept:
        ids = list(ids)
        rest, recent = ids[: -self.recent], ids[-self.recent :]
        while len(recent) > 1 and self._bytes(recent) > self.bytes_carried:
            recent = recent[1:]
        left = self.bytes_carried - self._bytes(recent)
        passages: list[tuple[int, ...]] = []
        for start in reversed(range(0, len(rest), self.passage_tokens)):
            passage = rest[start : start + self.passage_tokens]
            left -= self._bytes(passage)
            if left < 0:
                break
            passages.append(tuple(passage))
        return Kept(tuple(reversed(passages)), tuple(recent))

    def _bytes(self, ids: Sequence[int]) -> int:
        return len(self.tokenizer.decode(ids).encode()) + _PASSAGE_BYTES

    def chosen(self, memory: Kept, query: Sequence[int], room: int) -> list[int]:
        recent = list(memory.recent[-room:]) if room else []
        room -= len(recent)
        taken = []
        for place in self._ranked(memory, list(query) or list(memory.recent))[: self.top]:
            if len(memory.passages[place]) > room:
                break
            room -= len(memory.passages[place])
            taken.append(place)
        return [token for place in sorted(taken) for token in memory.passages[place]] + recent

    def last(self, memory: Kept) -> list[int]:
        return list(memory.recent[-1:])

    def target_query(self, past: Sequence[int], target: Sequence[int]) -> list[int]:
        return list(target[: self.query_tokens] if self.query_tokens else past[-len(target) :])

    def _ranked(self, memory: Kept, query: Sequence[int]) -> list[int]:
        """Places of the passages that share a word with the query, best first."""
        asked = self._words(query)
        passages = [self._words(passage) for passage in memory.passages]
        if not set(asked).intersection(*[{word for words in passages for word in words}]):
            return []
        index = _library().BM25()
        index.index(passages, show_progress=False)
        scores = index.get_scores(asked).tolist()
        return sorted((p for p, s in enumerate(scores) if s > 0), key=lambda p: (-scores[p], p))

    def _words(self, ids: Sequence[int]) -> list[str]:
        return _WORD.findall(self.tokenizer.decode(ids).lower())


def _library() -> Any:
    """The module bm25s. ValueError where it is not installed."""
    try:
        import bm25s
    except ImportError as error:
        raise ValueError('retrieval needs the package bm25s: pip install "hmt-lm[eval]"') from error
    return bm25s
