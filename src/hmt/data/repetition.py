"""Samples in which some segments repeat an earlier one: text whose recall targets are known."""

from __future__ import annotations

import numpy as np
import torch

from hmt.data.recall_targets import NO_TARGET
from hmt.util.integers import as_integers


class RepeatedSamples(torch.utils.data.Dataset):
    """Samples of running text, of whose segments a share is replaced by a copy of an earlier segment.

    What helps to predict the rest of a repeated segment is one memory embedding, and which one is known: this
    teaches a memory to write down what a segment said, and recall to find it. `samples[i]` is {"input_ids"
    int64 [T], "recall_targets" int64 [S]}, for `recall_targets="given"`; targets are -100 where nothing is
    repeated.

    Args:
        samples: what `cut_samples` returns, or any samples with `input_ids`.
        share: how likely a segment repeats another one.
        min_distance: the least number of segments between them (1: the one just before).
        seed: sample i depends on the seed and i alone.
    ValueError for sizes out of range.
    """

    def __init__(
        self, samples, segment_length: int, share: float = 0.25, min_distance: int = 2, seed: int = 0
    ):
        if segment_length < 1 or min_distance < 1 or not 0 <= share <= 1:
            raise ValueError(
                f"segment_length ({segment_length}) and min_distance ({min_distance}) must be at least 1, "
                f"share ({share}) between 0 and 1"
            )
        self.samples, self.segment_length, self.share = samples, segment_length, share
        self.min_distance, self.seed = min_distance, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        ids = as_integers(self.samples[index]["input_ids"], "'input_ids' of a sample").clone()
        draw, length = np.random.default_rng([self.seed, index]), self.segment_length
        number, whole = -(-len(ids) // length), len(ids) // length
        targets = torch.full((number,), NO_TARGET)
        for segment in range(self.min_distance, whole):
            if draw.random() >= self.share:
                continue
            # what is text itself is repeated, and once: a target is the one place where it stood
            taken = set(targets.tolist())
            last = segment - self.min_distance
            earlier = [s for s in range(last + 1) if targets[s] == NO_TARGET and s not in taken]
            if not earlier:
                continue
            source = targets[segment] = earlier[draw.integers(len(earlier))]
            ids[segment * length : (segment + 1) * length] = ids[source * length : (source + 1) * length]
        return {"input_ids": ids, "recall_targets": targets}
