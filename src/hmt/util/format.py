"""Numbers for people: sizes, counts, scores and differences of scores."""

from __future__ import annotations

import math
from typing import Any

# what a difference of two scores is measured in
UNITS = {"percent": "points", "perplexity": "% of perplexity", "bits": "bits per byte", "plain": ""}


def byte_text(size: float) -> str:
    """A number of bytes: 512 B, 1.5 KiB, 32 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} TiB"


def count_text(number: float) -> str:
    """A count in powers of 1,024, as context lengths are given: 512, 2k, 1M."""
    for factor, suffix in ((2**20, "M"), (2**10, "k")):
        if number >= factor:
            return f"{number / factor:.3g}{suffix}"
    return f"{number:g}"


def plural(number: int, noun: str) -> str:
    """1 segment, 2 segments, 1,000 segments."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def shown(value: float, show: str) -> float:
    """A score as it is shown (see `Metric`): a fraction in percent, nats per token as a perplexity."""
    if show == "percent":
        return 100 * value
    if show == "perplexity":
        return math.exp(value) if value < 700 else math.inf
    return value


def score_text(value: float | None, show: str) -> str:
    """Such as 45.3 (percent) or 12.345."""
    return "–" if value is None else number_text(shown(value, show), show)


def number_text(value: float, show: str) -> str:
    """A score that is already in the unit it is shown in."""
    return f"{value:.1f}" if show == "percent" else f"{value:,.{3 if abs(value) < 1000 else 1}f}"


def half_width(estimate: dict[str, Any], show: str) -> float | None:
    """The larger half of the interval, in the unit that is shown."""
    if estimate.get("low") is None or estimate.get("high") is None:
        return None
    low, mean, high = (shown(estimate[key], show) for key in ("low", "mean", "high"))
    return max(mean - low, high - mean)


def difference(value: float, show: str) -> float:
    """A difference of scores, in the unit that `UNITS` names."""
    if show == "perplexity":  # of nats per token
        return 100 * math.expm1(min(value, 700))
    return 100 * value if show == "percent" else value


def difference_text(value: float, show: str) -> str:
    """The same with its sign."""
    digits = {"percent": 1, "perplexity": 2}.get(show, 3)
    return f"{round(difference(value, show), digits) + 0.0:+.{digits}f}".replace("-", "−")


def carried_text(size: int | None) -> str:
    """Bytes that a reader carries."""
    return "grows" if size is None else byte_text(size)


def amount_text(number: float | None) -> str:
    """A count in powers of 1,000: 512, 1.2 M, 3.4 G."""
    if number is None:
        return "–"
    for factor, suffix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= factor:
            return f"{number / factor:.3g} {suffix}"
    return f"{number:.3g}"


def fact_text(value: Any) -> str:
    """A value of an axis."""
    return f"{value:g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)
