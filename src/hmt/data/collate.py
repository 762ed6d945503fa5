"""Samples of different length to one padded batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from hmt.data.recall_targets import NO_TARGET, ngram_recall_targets
from hmt.util.integers import as_integers

IGNORED_LABEL = -100  # what torch's cross-entropy ignores


@dataclass
class SegmentCollator:
    """Pads samples on the right and stacks them: a `data_collator` for `transformers.Trainer`.

    Takes dictionaries with `input_ids` (list or tensor [T_i]), and optionally `labels` [T_i] and
    `recall_targets` [S_i]; other keys are left out. Returns, with T the longest length rounded up to a
    multiple of `pad_to_multiple_of`,

    * `input_ids` [B, T] int64, `pad_token_id` behind the end of a sample;
    * `attention_mask` [B, T] int64, 1 on tokens and 0 on padding;
    * `labels` [B, T] int64, the sample's own, else its ids; -100 on padding. Not shifted: the model does
      that;
    * `segment_ends` [B, T] int64, where samples bring them: 1 at tokens that a segment ends with early;
    * `recall_targets` [B, S] int64, S = ceil(T / segment_length), -100 for none, when `recall_targets` is
      "ngram" (guessed from the ids by `ngram_recall_targets`, with its arguments in `ngram_options`) or
      "given" (the samples bring them).

    Padding stands on the right because segments are counted from the left: on the left it would move every
    sample to other segment borders, depending on the batch it is in.

    ValueError for settings that contradict each other, and for samples whose `labels` or `recall_targets` are
    not as many as their ids ask for.
    """

    pad_token_id: int = 0
    segment_length: int | None = None
    recall_targets: Literal["ngram", "given"] | None = None
    pad_to_multiple_of: int | None = None
    ngram_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.recall_targets not in (None, "ngram", "given"):
            raise ValueError(f"recall_targets is {self.recall_targets!r}; choose None, 'ngram' or 'given'.")
        if self.recall_targets and not self.segment_length:
            raise ValueError("recall_targets are counted in segments: give the collator a segment_length.")
        if self.pad_to_multiple_of is not None and self.pad_to_multiple_of < 1:
            raise ValueError(
                f"pad_to_multiple_of is {self.pad_to_multiple_of}; it must be at least 1, or None."
            )

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        ids = [_to_tensor(feature, "input_ids") for feature in features]
        labels = [
            _to_tensor(feature, "labels", default=own) for feature, own in zip(features, ids, strict=True)
        ]
        for own, label in zip(ids, labels, strict=True):
            if len(own) != len(label):
                raise ValueError(
                    f"A sample has {len(own)} input_ids and {len(label)} labels; they must be aligned."
                )
        multiple = self.pad_to_multiple_of or 1
        length = -(-max(len(own) for own in ids) // multiple) * multiple
        batch = {
            "input_ids": _pad(ids, length, self.pad_token_id),
            "attention_mask": _pad([torch.ones_like(own) for own in ids], length, 0),
            "labels": _pad(labels, length, IGNORED_LABEL),
        }
        if any("segment_ends" in feature for feature in features):
            nothing = [torch.zeros_like(own) for own in ids]
            ends = [
                _to_tensor(feature, "segment_ends", default=none)
                for feature, none in zip(features, nothing, strict=True)
            ]
            if any(len(own) != len(end) for own, end in zip(ids, ends, strict=True)):
                raise ValueError("A sample has segment_ends and input_ids of different length.")
            batch["segment_ends"] = _pad(ends, length, 0)
        if self.recall_targets and self.segment_length:
            ended = batch.get("segment_ends")
            number = max(
                len(segment_cuts(len(own), self.segment_length, None if ended is None else ended[row]))
                for row, own in enumerate(ids)
            )
            num_segments = max(-(-length // self.segment_length), number)
            targets = [
                self._targets(feature, own, self.segment_length)
                for feature, own in zip(features, ids, strict=True)
            ]
            batch["recall_targets"] = _pad(targets, num_segments, NO_TARGET)
        return batch

    def _targets(self, feature: dict[str, Any], ids: torch.Tensor, segment_length: int) -> torch.Tensor:
        if self.recall_targets == "ngram":
            return torch.tensor(ngram_recall_targets(ids.numpy(), segment_length, **self.ngram_options))
        targets = _to_tensor(feature, "recall_targets")
        ends = feature.get("segment_ends")
        num_segments = len(segment_cuts(len(ids), segment_length, ends))
        if len(targets) != num_segments:
            raise ValueError(
                f"A sample of {len(ids)} tokens has {num_segments} segments of {segment_length} and "
                f"{len(targets)} recall_targets; give one per segment, -100 for none."
            )
        return targets


def segment_cuts(length: int, segment_length: int, ends: Any = None) -> list[int]:
    """Where the segments of a sample of so many tokens end; ends: 1 at tokens that one ends with early."""
    early = [] if ends is None else (torch.as_tensor(ends)[:length].nonzero()[:, 0] + 1).tolist()
    cuts: list[int] = []
    for stop in sorted({*early, length}):
        cuts += [*range((cuts[-1] if cuts else 0) + segment_length, stop, segment_length), stop]
    return cuts


def _to_tensor(feature: dict[str, Any], key: str, default: torch.Tensor | None = None) -> torch.Tensor:
    values = feature.get(key)
    if values is None and default is not None:
        return default
    if values is None:
        raise ValueError(f"A sample has no '{key}'; it has: {', '.join(feature)}.")
    tensor = as_integers(values, f"'{key}' of a sample")
    if tensor.ndim != 1 or (key == "input_ids" and not len(tensor)):
        raise ValueError(
            f"'{key}' of a sample must be a sequence that is not empty, got {tuple(tensor.shape)}."
        )
    return tensor


def _pad(rows: list[torch.Tensor], length: int, value: int) -> torch.Tensor:
    padded = torch.full((len(rows), length), value, dtype=torch.int64)
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = values
    return padded
