"""Exact recall: the token ids of remembered segments, and which of them are read again.

A segment's ids stand in a ring [B, N, L] of codes, right-aligned: 0 where there is no token, else 1 + the
token's id, shifted into 16 bits where the vocabulary fits. So a passage takes 2 bytes a token, about what its
memory embedding takes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from hmt.model.layout import Ids

_SHIFT = 2**15
# Okapi BM25, with the values that are usual for short passages
K1, B = 0.9, 0.4
# tokens of a passage that are asked with again
WINDOW = 40


def code_dtype(vocab_size: int) -> torch.dtype:
    """What codes of so large a vocabulary are kept in."""
    return torch.int16 if vocab_size < 2 * _SHIFT else torch.int32


def code_limits(vocab_size: int) -> tuple[int, int]:
    """Least and most of a stored code."""
    shift = _SHIFT if code_dtype(vocab_size) == torch.int16 else 0
    return -shift, vocab_size - shift


def encode_ids(ids: Tensor, lengths: Tensor | None, length: int, vocab_size: int) -> Tensor:
    """Codes [B, length] of a segment, int64 [B, w] with w <= length; lengths [B] of the rows, None: all w."""
    dtype = code_dtype(vocab_size)
    codes = pad(ids + 1, (length - ids.shape[1], 0))
    if lengths is not None:
        place = torch.arange(length, device=ids.device) - (ids.shape[1] - lengths)[:, None]
        codes = torch.where(place >= length - ids.shape[1], codes.gather(1, place.clamp(min=0)), 0)
    return (codes - _SHIFT).to(dtype) if dtype == torch.int16 else codes.to(dtype)


def no_passages(batch: int, number: int, length: int, vocab_size: int, device: torch.device) -> Tensor:
    """An empty ring [B, N, L]."""
    least = code_limits(vocab_size)[0]
    return torch.full((batch, number, length), least, dtype=code_dtype(vocab_size), device=device)


def decode_ids(codes: Tensor) -> Tensor:
    """1 + ids, int64 of the same shape, 0 where there is no token."""
    return codes.long() + _SHIFT if codes.dtype == torch.int16 else codes.long()


def as_parts(codes: Tensor) -> list[Ids]:
    """The passages [B, p, L] of each row, from left to right, as parts of a layout."""
    tokens = decode_ids(codes)
    return [Ids((one - 1).clamp(min=0), (one > 0).sum(-1)) for one in tokens.unbind(1)]


def choose(log_weights: Tensor, held: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Slots int64 [B, p] of the best segments, in the order of the text, and whether there is one, bool.

    log_weights: [B, N]. held: int64 [B, N], the segment in each slot; where that is negative none is chosen.
    Places of no segment come first.
    """
    number = min(number, log_weights.shape[1])
    scores = log_weights.detach().masked_fill(held < 0, -torch.inf)
    best, slots = scores.topk(number, dim=1)
    # a slot that holds nothing stands before all that do
    order = held.gather(1, slots).masked_fill(best == -torch.inf, -1).argsort(dim=1, stable=True)
    return slots.gather(1, order), best.gather(1, order) > -torch.inf


class Search:
    """A question's words in passages: BM25, and what stands around them. Looked up once.

    Every different token of a question counts once. How rare a token is, and how long passages are, is taken
    from the filled slots.

    Args:
        questions: codes [B, w]. codes: [B, n, L]. filled: bool [B, n], slots that are looked at.
    """

    def __init__(self, questions: Tensor, codes: Tensor, filled: Tensor, vocab_size: int):
        self.questions, self.codes, self.filled, self.vocab_size = questions, codes, filled, vocab_size
        asked, words = decode_ids(questions), decode_ids(codes).masked_fill(~filled[..., None], 0)
        self.lengths = (words > 0).sum(-1).float()
        # where each token stands in the question, from 1; 0: nowhere. Of one that is asked for more than
        # once, one of its places
        width = asked.shape[1]
        places = torch.arange(1, width + 1, device=asked.device).expand(len(asked), -1)
        table = asked.new_zeros(len(asked), vocab_size + 1).scatter(1, asked, places)
        table[:, 0] = 0
        self.where = table.gather(1, words.flatten(1)).view(words.shape)
        counts = torch.zeros(*filled.shape, width + 1, device=asked.device)
        counts = counts.scatter_add(2, self.where, torch.ones_like(self.where, dtype=counts.dtype))
        self.counts = counts[..., 1:]
        self.total = filled.sum(1, keepdim=True).clamp(min=1).float()
        spread = (self.counts > 0).sum(1).float()
        self.rarity = torch.log1p((self.total - spread + 0.5).clamp(min=0) / (spread + 0.5))  # [B, w]

    def bm25(self) -> Tensor:
        """Scores float32 [B, n]; 0 in slots that are not filled.

        score = sum over tokens of log(1 + (n - df + 1/2) / (df + 1/2)) times
        tf (k1 + 1) / (tf + k1 (1 - b + b length / mean length)).
        """
        mean = (self.lengths.sum(1, keepdim=True) / self.total).clamp(min=1)
        damped = K1 * (1 - B + B * self.lengths / mean)
        return (self.rarity[:, None] * self.counts * (K1 + 1) / (self.counts + damped[..., None])).sum(-1)

    def again(self, slots: Tensor) -> Search:
        """The question with what stands around its words in one passage each, slots int64 [B].

        Those are the `WINDOW` tokens in which the question's tokens weigh most, each by how rare it is.
        """
        place = slots[:, None, None].expand(-1, 1, self.codes.shape[2])
        weights = pad(self.rarity, (1, 0)).gather(1, self.where.gather(1, place)[:, 0])
        half = WINDOW // 2
        sums = pad(weights, (half + 1, half)).cumsum(1)
        sums = sums[:, 2 * half + 1 :] - sums[:, : -2 * half - 1]
        tokens = torch.arange(self.codes.shape[2], device=self.codes.device)
        inside = (tokens - sums.argmax(1, keepdim=True)).abs() <= half
        empty = code_limits(self.vocab_size)[0]
        around = self.codes.gather(1, place)[:, 0].masked_fill(~inside, empty)
        questions = torch.cat([self.questions, around], dim=1)
        return Search(questions, self.codes, self.filled, self.vocab_size)
