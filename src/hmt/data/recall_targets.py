"""Which earlier segment should be recalled: targets for the recall loss, guessed from what the text repeats.

A segment that comes back to a name, a place or a rare word needs the segment that spoke of it before. The
trap is that most repeated n-grams say nothing ("of his", " at the"), even when they occur in only two
segments of a sample; longer ones are no better, only fewer. So an n-gram weighs no more than its most
frequent token, and a segment gets a target only when enough weight points to one place. On books (16
segments) the defaults give a target to a quarter of the segments at L = 128, to half of them at L = 512, and
the targets share names and topic words.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NO_TARGET = -100  # what torch's cross-entropy ignores


def ngram_recall_targets(
    ids: Sequence[int] | np.ndarray,
    segment_length: int,
    *,
    n: int = 2,
    max_segments: int = 3,
    min_distance: int = 2,
    head_length: int | None = None,
    tail_only: bool = True,
    min_score: float = 0.3,
) -> list[int]:
    """For every segment of `ids` [T] the index of the earlier one it should recall, or -100 for none.

    An n-gram (within one segment) counts if it occurs in 2 to `max_segments` segments, with the weight
    (rarity of its most frequent token) / (segments it occurs in). The rarity of a token is log(S / segments
    it occurs in) / log S: 1 for a token of one segment only, 0 for one found in all S. The earlier segment
    that shares the largest sum of weights is the target, the later one on a tie, if the sum reaches
    `min_score`.

    The target lies at least `min_distance` segments back: the end of the segment before is visible anyway.
    With `tail_only` only n-grams at positions >= `head_length` (default: half a segment) of the segment that
    recalls are matched. These are the tokens that the recall can help to predict; the head is what the query
    is made of, so a target from the head alone would teach it to look for what it has just read. Of the
    earlier segment all tokens count.

    Returns ceil(T / segment_length) integers. ValueError for sizes out of range.
    """
    head_length = segment_length // 2 if head_length is None else head_length
    _check_sizes(segment_length, n, max_segments, min_distance, head_length)
    tokens = np.asarray(ids, dtype=np.int64)
    if tokens.ndim != 1:
        raise ValueError(f"ngram_recall_targets takes one sequence of ids, got the shape {tokens.shape}.")
    num_segments = -(-len(tokens) // segment_length)
    targets = [NO_TARGET] * num_segments
    if num_segments <= min_distance or len(tokens) < n:
        return targets

    grams, weights, positions = _ngrams(tokens, segment_length, num_segments, n)
    # One entry per n-gram and segment that holds it, by n-gram, then by segment.
    entries = np.unique(grams * num_segments + positions // segment_length)
    gram, segment = entries // num_segments, entries % num_segments
    asking = positions % segment_length >= (head_length if tail_only else 0)
    asks = np.isin(entries, (grams * num_segments + positions // segment_length)[asking])
    spread = np.bincount(gram, minlength=len(weights))
    rare = (spread[gram] >= 2) & (spread[gram] <= max_segments)
    gram, segment, asks = gram[rare], segment[rare], asks[rare]

    asker, asked, score = [], [], []
    for step in range(1, max_segments):  # entries of one n-gram are neighbours, the earlier segment first
        pair = (
            (gram[step:] == gram[:-step]) & asks[step:] & (segment[step:] - segment[:-step] >= min_distance)
        )
        asker.append(segment[step:][pair])
        asked.append(segment[:-step][pair])
        score.append((weights / np.maximum(spread, 1))[gram[step:][pair]])
    for late, early in _best(np.concatenate(asker), np.concatenate(asked), np.concatenate(score), min_score):
        targets[late] = early
    return targets


def _check_sizes(segment_length: int, n: int, max_segments: int, min_distance: int, head_length: int) -> None:
    if segment_length < 1 or min_distance < 1 or max_segments < 2:
        raise ValueError(
            f"segment_length ({segment_length}) and min_distance ({min_distance}) must be at least 1, "
            f"max_segments ({max_segments}) at least 2."
        )
    if not 1 <= n <= segment_length:
        raise ValueError(f"n is {n}; it must lie between 1 and segment_length ({segment_length}).")
    if not 0 <= head_length <= segment_length:
        raise ValueError(
            f"head_length is {head_length}; it must lie between 0 and segment_length ({segment_length})."
        )


def _ngrams(
    ids: np.ndarray, segment_length: int, num_segments: int, n: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The number of each n-gram within a segment, the weight by number, and where the n-grams begin."""
    tokens = np.unique(ids, return_inverse=True)[1]
    places = np.unique(tokens * num_segments + np.arange(len(ids)) // segment_length)
    spread = np.bincount(places // num_segments)
    rarity = np.log(num_segments / spread) / np.log(num_segments)

    count = len(ids) - n + 1
    grams, lowest = tokens[:count], rarity[tokens[:count]]
    for shift in range(1, n):
        following = tokens[shift : shift + count]
        # Renumbered at every step, so that the codes never pass T^2.
        grams = np.unique(grams * len(rarity) + following, return_inverse=True)[1]
        lowest = np.minimum(lowest, rarity[following])
    weights = np.zeros(grams.max() + 1)
    weights[grams] = lowest
    positions = np.arange(count)
    inside = positions % segment_length <= segment_length - n
    return grams[inside], weights, positions[inside]


def _best(asker: np.ndarray, asked: np.ndarray, score: np.ndarray, min_score: float) -> list[tuple[int, int]]:
    """For every asker the asked one with the largest sum of scores, if that reaches `min_score`."""
    if not len(asker):
        return []
    base = int(asker.max()) + 1
    pairs, index = np.unique(asker * base + asked, return_inverse=True)
    # Rounded, so that a tie is a tie in whatever order the weights were added.
    sums = np.round(np.bincount(index, weights=score), 9)
    pairs, sums = pairs[sums >= min_score], sums[sums >= min_score]
    late, early = pairs // base, pairs % base
    order = np.lexsort((early, sums, late))
    last = np.append(np.diff(late[order]) > 0, True) if len(order) else np.zeros(0, bool)
    return list(zip(late[order][last].tolist(), early[order][last].tolist(), strict=True))
