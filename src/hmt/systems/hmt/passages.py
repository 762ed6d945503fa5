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


def bm25(questions: Tensor, codes: Tensor, filled: Tensor, vocab_size: int) -> Tensor:
    """BM25 scores float32 [B, n] of passages for questions; 0 in slots that are not filled.

    Every different token of a question counts once. How rare a token is, and how long passages are, is taken
    from the filled slots. score = sum over tokens of log(1 + (n - df + 1/2) / (df + 1/2)) times
    tf (k1 + 1) / (tf + k1 (1 - b + b length / mean length)).

    questions: codes [B, w]. codes: [B, n, L]. filled: bool [B, n].
    """
    where, width = _matches(questions, codes, filled, vocab_size), questions.shape[1]
    counts, rarity = _counted(where, width, filled)
    total = filled.sum(1).clamp(min=1).float()
    lengths = ((decode_ids(codes) > 0) & filled[..., None]).sum(-1).float()
    mean = (lengths.sum(1) / total).clamp(min=1)
    damped = K1 * (1 - B + B * lengths / mean[:, None])
    return (rarity[:, None] * counts * (K1 + 1) / (counts + damped[..., None])).sum(-1)


def with_context(questions: Tensor, codes: Tensor, filled: Tensor, slots: Tensor, vocab_size: int) -> Tensor:
    """Questions with what stands around their words in one passage each: codes [B, w + L].

    Of the passage in slot `slots` int64 [B] the `WINDOW` tokens are taken in which the question's tokens
    weigh most, each by how rare it is; the rest is no token. Other arguments as of `bm25`.
    """
    where = _matches(questions, codes, filled, vocab_size)
    rarity = _counted(where, questions.shape[1], filled)[1]
    place = slots[:, None, None].expand(-1, 1, codes.shape[2])
    weights = pad(rarity, (1, 0)).gather(1, where.gather(1, place)[:, 0])
    half = WINDOW // 2
    sums = pad(weights, (half + 1, half)).cumsum(1)
    sums = sums[:, 2 * half + 1 :] - sums[:, : -2 * half - 1]
    tokens = torch.arange(codes.shape[2], device=codes.device)
    inside = (tokens - sums.argmax(1, keepdim=True)).abs() <= half
    empty = code_limits(vocab_size)[0]
    around = codes.gather(1, place)[:, 0].masked_fill(~inside, empty)
    return torch.cat([questions, around], dim=1)


def _matches(questions: Tensor, codes: Tensor, filled: Tensor, vocab_size: int) -> Tensor:
    """Where each token of the passages stands in the question, int64 [B, n, L], from 1; 0: nowhere."""
    asked, words = decode_ids(questions), decode_ids(codes).masked_fill(~filled[..., None], 0)
    places = torch.arange(1, asked.shape[1] + 1, device=asked.device).expand(len(asked), -1)
    # of a token that is asked for more than once, one of its places
    table = asked.new_zeros(len(asked), vocab_size + 1).scatter(1, asked, places)
    table[:, 0] = 0
    return table.gather(1, words.flatten(1)).view(words.shape)


def _counted(where: Tensor, width: int, filled: Tensor) -> tuple[Tensor, Tensor]:
    """How often passages hold each token of a question [B, n, w], and how rare each is [B, w]."""
    counts = torch.zeros(*where.shape[:2], width + 1, device=where.device)
    counts = counts.scatter_add(2, where, torch.ones_like(where, dtype=counts.dtype))[..., 1:]
    total = filled.sum(1, keepdim=True).clamp(min=1).float()
    spread = (counts > 0).sum(1).float()
    return counts, torch.log1p((total - spread + 0.5).clamp(min=0) / (spread + 0.5))
