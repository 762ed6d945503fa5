"""Scores and quantities as people read them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hmt.evaluation.units import byte_text

# what a difference of two scores is measured in
UNITS = {"percent": "points", "perplexity": "% of perplexity", "bits": "bits per byte", "plain": ""}


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


def interval_text(estimate: Mapping[str, Any], show: str) -> str:
    """Such as "43.1 to 47.4"; empty where there is no interval."""
    if estimate.get("low") is None or estimate.get("high") is None:
        return ""
    return f"{score_text(estimate['low'], show)} to {score_text(estimate['high'], show)}"


def half_width(estimate: Mapping[str, Any], show: str) -> float | None:
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
