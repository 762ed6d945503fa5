"""Means, 95% intervals and paired differences, from records.

All intervals are percentile bootstraps over groups (documents): scores of one document are alike, so a group
is drawn whole or not at all. Scores may have weights and be missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

RESAMPLES = 2000
_BLOCK = 2**22  # draws made at a time, and kept for the next metric (32 MiB)

Record = Mapping[str, Any]
Estimate = dict[str, float | None]


def estimate(
    records: Sequence[Record], metric: str, *, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Mean of a metric, sum(weight x score) / sum(weight), its 95% interval, and the sum of weights.

    Records without a score do not count. mean is None where none has one, low and high where there are fewer
    than two groups to draw from.
    """
    values, weights = _scores(records, metric)
    sums, counts = _by_group(records, [values * weights, weights])
    total = float(counts.sum())
    mean = float(sums.sum()) / total if total else None
    low, high = (None, None) if mean is None else _interval([(sums, counts)], resamples, seed)
    return {"mean": mean, "low": low, "high": high, "weight": total}


def paired(
    a: Sequence[Record], b: Sequence[Record], metric: str, *, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Mean of a less mean of b over the n ids that both have a score for, and its 95% interval.

    Both are resampled together. low and high are None where there are fewer than two groups.
    """
    known = {record["id"]: record for record in b if _weight(record, metric)}
    common = [record for record in a if _weight(record, metric) and record["id"] in known]
    if not common:
        return {"mean": None, "low": None, "high": None, "n": 0}
    columns = []
    for side in (common, [known[record["id"]] for record in common]):
        values, weights = _scores(side, metric)
        columns += [values * weights, weights]
    sums_a, counts_a, sums_b, counts_b = _by_group(common, columns)
    mean = float(sums_a.sum() / counts_a.sum() - sums_b.sum() / counts_b.sum())
    low, high = _interval([(sums_a, counts_a), (sums_b, counts_b)], resamples, seed)
    return {"mean": mean, "low": low, "high": high, "n": len(common)}


def cells(records: Sequence[Record], axes: Sequence[str]) -> list[tuple[dict[str, Any], list[Record]]]:
    """(facts, records that have them), in the order of the facts; empty without axes."""
    found: dict[tuple, list[Record]] = {}
    for record in records if axes else ():
        found.setdefault(tuple(record["facts"].get(axis) for axis in axes), []).append(record)
    ordered = sorted(found, key=lambda key: [fact_order(value) for value in key])
    return [(dict(zip(axes, key, strict=True)), found[key]) for key in ordered]


def fact_order(value: Any) -> tuple[int, float, str]:
    """A key to sort facts by: numbers by size, then texts."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return (0, float(value), "") if number else (1, 0.0, str(value))


def _weight(record: Record, metric: str) -> float:
    """What a record counts in the mean; 0 without a score."""
    if record["scores"].get(metric) is None:
        return 0.0
    return float((record.get("weights") or {}).get(metric, 1.0))


def _scores(records: Sequence[Record], metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores and weights, both 0 for records without a score."""
    weights = np.array([_weight(record, metric) for record in records], dtype=float)
    values = np.array([record["scores"].get(metric) or 0.0 for record in records], dtype=float)
    return values, weights


def _by_group(records: Sequence[Record], columns: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Sums of each column per group, of the groups that count (the last column is a weight)."""
    groups = [str(record.get("group") or record["id"]) for record in records]
    codes = np.unique(groups, return_inverse=True)[1] if groups else np.zeros(0, dtype=int)
    sums = [np.bincount(codes, column) for column in columns]
    counted = sums[-1] > 0
    return [column[counted] for column in sums]


def _interval(parts: Sequence[tuple[np.ndarray, np.ndarray]], resamples: int, seed: int) -> tuple[Any, Any]:
    """2.5th and 97.5th percentile of the first part's mean (less the second's) over resampled groups."""
    size = len(parts[0][0])
    if size < 2:
        return None, None
    drawn = []
    for times in _draws(size, resamples, seed):
        means = [(times @ sums) / (times @ counts) for sums, counts in parts]
        drawn.append(means[0] - means[1] if len(means) > 1 else means[0])
    low, high = np.percentile(np.concatenate(drawn), [2.5, 97.5])
    return _finite(low), _finite(high)


def _draws(size: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each group is drawn, in blocks [resamples of the block, groups]."""
    if size * resamples <= _BLOCK:
        yield _kept_draws(size, resamples, seed)
        return
    generator = np.random.default_rng(seed)
    rows = max(1, _BLOCK // size)
    for start in range(0, resamples, rows):
        yield _count(generator.integers(size, size=(min(rows, resamples - start), size)))


@lru_cache(maxsize=4)
def _kept_draws(size: int, resamples: int, seed: int) -> np.ndarray:
    return _count(np.random.default_rng(seed).integers(size, size=(resamples, size)))


def _count(draws: np.ndarray) -> np.ndarray:
    rows, size = draws.shape
    flat = (draws + size * np.arange(rows)[:, None]).ravel()
    return np.bincount(flat, minlength=rows * size).reshape(rows, size).astype(float)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
