import math
import random
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hmt.data import ngram_recall_targets


def reference(ids, length, n, max_segments, min_distance, head, min_score):
    """The definition, one n-gram at a time."""
    segments = [ids[i : i + length] for i in range(0, len(ids), length)]
    grams = lambda segment: set(zip(*(segment[i:] for i in range(n)), strict=False))  # noqa: E731
    spread = Counter(token for segment in segments for token in set(segment))
    holders = defaultdict(list)
    for s, segment in enumerate(segments):
        for gram in grams(segment):
            holders[gram].append(s)
    targets = [-100] * len(segments)
    for s, segment in enumerate(segments):
        score = defaultdict(float)
        for gram in grams(segment[head:]):
            if 2 <= len(holders[gram]) <= max_segments:
                rarity = min(math.log(len(segments) / spread[t]) / math.log(len(segments)) for t in gram)
                for earlier in holders[gram]:
                    if s - earlier >= min_distance:
                        score[earlier] += rarity / len(holders[gram])
        best = max(score, key=lambda e: (round(score[e], 9), e), default=None)
        if best is not None and round(score[best], 9) >= min_score:
            targets[s] = best
    return targets


@settings(max_examples=150, deadline=None)
@given(
    ids=st.lists(st.integers(0, 12), max_size=70),
    length=st.integers(3, 9),
    n=st.integers(1, 3),
    max_segments=st.integers(2, 4),
    min_distance=st.integers(1, 3),
    tail_only=st.booleans(),
    min_score=st.sampled_from([0.0, 0.1234, 0.4567]),
)
def test_agrees_with_the_definition(ids, length, n, max_segments, min_distance, tail_only, min_score):
    options = {"n": n, "max_segments": max_segments, "min_distance": min_distance, "min_score": min_score}
    expected = reference(ids, length, head=length // 2 if tail_only else 0, **options)
    assert ngram_recall_targets(ids, length, tail_only=tail_only, **options) == expected


def planted(*places: tuple[int, int], num_segments: int = 8, length: int = 20) -> list[int]:
    """Random common tokens, with one rare name of 3 tokens at (segment, position)."""
    rng = random.Random(0)
    ids = [rng.randrange(10) for _ in range(num_segments * length)]
    for segment, position in places:
        ids[segment * length + position : segment * length + position + 3] = [100, 101, 102]
    return ids


def test_planted_name_is_found():
    assert ngram_recall_targets(planted((1, 2), (6, 14)), 20) == [-100] * 6 + [1, -100]


def test_the_nearest_holder_wins_and_neighbours_do_not_count():
    targets = ngram_recall_targets(planted((0, 2), (2, 12), (6, 14)), 20)
    assert (targets[2], targets[6]) == (0, 2)
    assert ngram_recall_targets(planted((5, 2), (6, 14)), 20)[6] == -100
    assert ngram_recall_targets(planted((5, 2), (6, 14)), 20, min_distance=1)[6] == 5


def test_name_in_the_head_alone_gives_no_target():
    ids = planted((1, 2), (6, 3))
    assert ngram_recall_targets(ids, 20)[6] == -100
    assert ngram_recall_targets(ids, 20, tail_only=False)[6] == 1
    assert ngram_recall_targets(ids, 20, head_length=3)[6] == 1


def test_name_across_a_border_does_not_count():
    assert ngram_recall_targets(planted((1, 18), (6, 14)), 20, n=3) == [-100] * 8


def test_what_occurs_everywhere_gives_no_target():
    assert ngram_recall_targets(planted(*((s, 12) for s in range(8))), 20) == [-100] * 8
    assert ngram_recall_targets([5] * 100, 20) == [-100] * 5


def test_odd_sizes_and_mistakes():
    assert ngram_recall_targets([], 4) == []
    assert ngram_recall_targets([1], 4) == [-100]
    assert ngram_recall_targets(np.array([1, 2, 3, 4, 5]), 4) == [-100, -100]
    for options in ({"n": 0}, {"n": 5}, {"max_segments": 1}, {"min_distance": 0}, {"head_length": 5}):
        with pytest.raises(ValueError, match="must"):
            ngram_recall_targets([1] * 20, 4, **options)
    with pytest.raises(ValueError, match="one sequence"):
        ngram_recall_targets([[1]], 4)
