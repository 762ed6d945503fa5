"""Tokenized documents to training samples; mixing and diluting, the paper's ways to make memory necessary."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


class SegmentSamples(torch.utils.data.Dataset):
    """Runs of tokens cut out of documents: `samples[i]` is {"input_ids": int64 tensor [T_i]}.

    Only (document, start, length) of every sample is kept; ids are read from the memory-mapped documents on
    access. `num_tokens` and `dropped_tokens` count what the samples hold and what was too short to become
    one.
    """

    def __init__(self, tokenized: Dataset, pieces: np.ndarray, dropped_tokens: int = 0):
        self.documents = tokenized.select_columns(["input_ids"]).with_format("arrow")
        self.pieces = pieces  # int64 [samples, 3]: document, start, length
        self.num_tokens = int(pieces[:, 2].sum())
        self.dropped_tokens = dropped_tokens

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        document, start, length = self.pieces[index].tolist()
        # flatten of a one-row chunk is a view of the file; only the slice is copied.
        ids = self.documents[document]["input_ids"].chunk(0).flatten().slice(start, length)
        return {"input_ids": torch.from_numpy(ids.to_numpy(zero_copy_only=False).astype(np.int64))}


def cut_samples(
    tokenized: Dataset,
    segment_length: int,
    num_segments: int,
    *,
    min_segments: int = 1,
    stride: int | None = None,
) -> SegmentSamples:
    """Consecutive runs of at most `num_segments * segment_length` tokens of one document, in order.

    A new sample starts every `stride` tokens (default: the length of a sample, so that they tile the
    document; less overlaps them), until one reaches the end of its document. No sample crosses from one
    document into the next.

    The last sample of a document may be shorter. It is kept if it has at least `min_segments *
    segment_length` tokens, whether or not it is the document's only one; with `min_segments=0` whenever it
    has 2 (one token leaves nothing to predict). Use 0 for collections of short texts, `num_segments` for
    samples of one size.

    ValueError for sizes below 1, and if every document is too short.
    """
    window = num_segments * segment_length
    stride = window if stride is None else stride
    if segment_length < 1 or num_segments < 1 or stride < 1:
        raise ValueError(
            f"segment_length ({segment_length}), num_segments ({num_segments}) and stride ({stride}) "
            "must be at least 1."
        )
    if not 0 <= min_segments <= num_segments:
        raise ValueError(
            f"min_segments is {min_segments}; it must lie between 0 and num_segments ({num_segments})."
        )
    shortest = max(2, min_segments * segment_length)
    lengths = document_lengths(tokenized)
    pieces = [_pieces(document, length, window, stride) for document, length in enumerate(lengths.tolist())]
    all_pieces = np.concatenate(pieces) if pieces else np.zeros((0, 3), np.int64)
    kept = all_pieces[all_pieces[:, 2] >= shortest]
    if not len(kept):
        longest = int(lengths.max()) if len(lengths) else 0
        raise ValueError(
            f"No document has the {shortest} tokens that a sample needs at least (the longest has "
            f"{longest}): lower segment_length or min_segments."
        )
    return SegmentSamples(tokenized, kept, dropped_tokens=int(all_pieces[:, 2].sum() - kept[:, 2].sum()))


def document_lengths(tokenized: Dataset) -> np.ndarray:
    """int64 [documents]: tokens of each document, from the offsets alone. ValueError without `input_ids`."""
    import pyarrow.compute

    if "input_ids" not in tokenized.column_names:
        raise ValueError(
            f"There is no column 'input_ids' but: {', '.join(tokenized.column_names)}. "
            "Call tokenize_documents on the documents first."
        )
    tables = tokenized.select_columns(["input_ids"]).with_format("arrow").iter(batch_size=1000)
    lengths = [pyarrow.compute.list_value_length(table["input_ids"]).to_numpy() for table in tables]
    return np.concatenate(lengths).astype(np.int64) if lengths else np.zeros(0, np.int64)


def _pieces(document: int, length: int, window: int, stride: int) -> np.ndarray:
    # The last start is the first whose window reaches the end: a later one would only repeat what it holds.
    count = 1 + max(0, -(-(length - window) // stride))
    starts = np.arange(count, dtype=np.int64) * stride
    starts = starts[starts < length]
    sizes = np.minimum(window, length - starts)
    return np.stack([np.full_like(starts, document), starts, sizes], axis=1)


def interleave(a: Sequence[int], b: Sequence[int], chunk_length: int) -> list[int]:
    """`chunk_length` tokens of `a`, as many of `b`, and so on; what the longer one has left over follows at
    the end.

    The paper reads two PG-19 books in turn, 256 tokens each (App. H): every other segment is about something
    else. ValueError for a `chunk_length` below 1.
    """
    if chunk_length < 1:
        raise ValueError(f"chunk_length is {chunk_length}; it must be at least 1.")
    mixed: list[int] = []
    for start in range(0, max(len(a), len(b)), chunk_length):
        mixed += a[start : start + chunk_length]
        mixed += b[start : start + chunk_length]
    return mixed


def dilate(ids: Sequence[int], every: int, filler_ids: Sequence[int]) -> list[int]:
    """`ids` with `filler_ids` inserted after every full run of `every` tokens.

    The paper puts 256 "$" after every 256 tokens of PG-19: every other segment says nothing. ValueError for
    an `every` below 1.
    """
    if every < 1:
        raise ValueError(f"every is {every}; it must be at least 1.")
    diluted: list[int] = []
    for start in range(0, len(ids), every):
        chunk = ids[start : start + every]
        diluted += chunk
        if len(chunk) == every:
            diluted += filler_ids
    return diluted


def interleave_documents(tokenized: Dataset, chunk_length: int) -> Dataset:
    """Documents 1 and 2 interleaved, 3 and 4, and so on: half as many rows, named "a + b".

    With an odd number the last one is left out, with a warning. ValueError for fewer than two.
    """
    if len(tokenized) < 2:
        raise ValueError(f"interleave_documents mixes pairs of documents, and there is {len(tokenized)}.")
    if chunk_length < 1:
        raise ValueError(f"chunk_length is {chunk_length}; it must be at least 1.")
    if len(tokenized) % 2:
        logger.warning(
            "interleave_documents: left out the last of %d documents, without a pair.", len(tokenized)
        )
        tokenized = tokenized.select(range(len(tokenized) - 1))

    def mix(batch: dict[str, list]) -> dict[str, list]:
        (a, b), names = batch["input_ids"], batch["name"]
        return {"name": [" + ".join(names)], "input_ids": [interleave(a, b, chunk_length)]}

    return tokenized.map(mix, batched=True, batch_size=2, features=tokenized.features, desc="Interleaving")


def dilate_documents(tokenized: Dataset, every: int, filler_id: int, filler_length: int) -> Dataset:
    """Every document with `filler_length` times `filler_id` after every `every` tokens; see `dilate`."""
    if every < 1 or filler_length < 1:
        raise ValueError(f"every ({every}) and filler_length ({filler_length}) must be at least 1.")
    filler = [filler_id] * filler_length

    def dilute(row: dict) -> dict:
        return {"input_ids": dilate(row["input_ids"], every, filler)}

    return tokenized.map(dilute, features=tokenized.features, desc="Dilating")
