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
    batch, number = filled.shape
    asked, words = decode_ids(questions), decode_ids(codes).masked_fill(~filled[..., None], 0)
    # where each token of the vocabulary stands in the question: 0 for none of it, and for no token
    width = asked.shape[1]
    places = torch.arange(1, width + 1, device=asked.device).expand(batch, -1)
    table = asked.new_zeros(batch, vocab_size + 1).scatter(1, asked, places)
    table[:, 0] = 0
    where = table.gather(1, words.flatten(1)).view(words.shape)
    counts = torch.zeros(batch, number, width + 1, device=asked.device)
    counts = counts.scatter_add(2, where, torch.ones_like(where, dtype=counts.dtype))[..., 1:]
    total = filled.sum(1).clamp(min=1).float()
    lengths = (words > 0).sum(-1).float()
    mean = (lengths.sum(1) / total).clamp(min=1)
    spread = (counts > 0).sum(1).float()
    rarity = torch.log1p((total[:, None] - spread + 0.5).clamp(min=0) / (spread + 0.5))
    damped = K1 * (1 - B + B * lengths / mean[:, None])
    return (rarity[:, None] * counts * (K1 + 1) / (counts + damped[..., None])).sum(-1)
