"""What a perplexity run found: negative log-likelihoods per target, and what is computed from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from hmt.evaluation.targets import Target


class Difference(NamedTuple):
    """Mean difference in nats per token, a - b (negative: a is better), with a 95% interval."""

    mean: float
    low: float
    high: float
    targets: int

    @property
    def perplexity_ratio(self) -> float:
        """Perplexity of a divided by that of b."""
        return math.exp(self.mean)


@dataclass(frozen=True)
class HistoryResult:
    """Perplexity of several models at several amounts of history, all on the same tokens.

    Attributes:
        nll: model name -> history in segments -> negative log-likelihood in nats of each target [targets].
        targets: what was scored, in the order of those lists.
        segment_length: L, tokens per segment. skip: tokens at the head of each target that are not scored.
        documents: number of documents given; long_enough: how many of them had room for a target.
        seed: what the targets were drawn with.
    """

    nll: dict[str, dict[int, list[float]]]
    targets: list[Target]
    segment_length: int
    skip: int
    documents: int = 0
    long_enough: int = 0
    seed: int = 0

    @property
    def models(self) -> list[str]:
        return list(self.nll)

    @property
    def histories(self) -> list[int]:
        return sorted(next(iter(self.nll.values()), {}))

    @property
    def tokens_per_target(self) -> int:
        return self.segment_length - self.skip

    @property
    def tokens(self) -> int:
        """Tokens scored, for every model and every history."""
        return self.tokens_per_target * len(self.targets)

    @property
    def documents_used(self) -> int:
        return len({target.document for target in self.targets})

    def total(self, model: str, history: int) -> float:
        """Sum of the negative log-likelihoods, in nats."""
        return math.fsum(self._of(model, history))

    def nats_per_token(self, model: str, history: int) -> float:
        return self.total(model, history) / self.tokens

    def bits_per_token(self, model: str, history: int) -> float:
        return self.nats_per_token(model, history) / math.log(2)

    def perplexity(self, model: str, history: int) -> float:
        nats = self.nats_per_token(model, history)
        return math.exp(nats) if nats < 700 else math.inf

    def paired(
        self,
        model_a: str,
        model_b: str,
        history: int,
        history_b: int | None = None,
        *,
        by: Literal["target", "document"] = "target",
        resamples: int = 2000,
        seed: int = 0,
    ) -> Difference:
        """How much better or worse `model_a` is than `model_b` on the same tokens (bootstrap over targets).

        history_b: the history of `model_b` where it differs (with one model twice: what more history is
        worth).
        by: resample targets, or whole documents, which allows for targets of one document being alike.
        """
        other = history if history_b is None else history_b
        delta = np.subtract(self._of(model_a, history), self._of(model_b, other)) / self.tokens_per_target
        sums, counts = delta, np.ones(len(delta))
        if by == "document":
            groups = np.unique([target.document for target in self.targets], return_inverse=True)[1]
            sums, counts = np.bincount(groups, delta), np.bincount(groups).astype(float)
        draws = np.random.default_rng(seed).integers(len(sums), size=(resamples, len(sums)))
        means = sums[draws].sum(1) / counts[draws].sum(1)
        low, high = np.percentile(means, [2.5, 97.5])
        return Difference(float(delta.mean()), float(low), float(high), len(delta))

    def merged(self, groups: Mapping[str, Sequence[str]]) -> HistoryResult:
        """A result whose models are groups of this one's, each with the mean over its members per target."""
        nll = {
            label: {
                h: np.mean([self._of(name, h) for name in names], axis=0).tolist() for h in self.histories
            }
            for label, names in groups.items()
        }
        return replace(self, nll=nll)

    def _of(self, model: str, history: int) -> Sequence[float]:
        try:
            return self.nll[model][history]
        except KeyError:
            raise ValueError(
                f"there is no result for {model!r} at history {history}; models: {self.models}, "
                f"histories: {self.histories}"
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` reads them back."""
        scores = {
            model: {
                str(history): {
                    "perplexity": self.perplexity(model, history),
                    "bits_per_token": self.bits_per_token(model, history),
                    "nll": self.total(model, history),
                    "tokens": self.tokens,
                    "nll_per_target": list(values),
                }
                for history, values in by_history.items()
            }
            for model, by_history in self.nll.items()
        }
        return {
            "models": scores,
            "targets": [list(target) for target in self.targets],
            "segment_length": self.segment_length,
            "skip": self.skip,
            "documents": self.documents,
            "long_enough": self.long_enough,
            "seed": self.seed,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> HistoryResult:
        nll = {
            model: {int(history): score["nll_per_target"] for history, score in scores.items()}
            for model, scores in values["models"].items()
        }
        rest = {name: values[name] for name in ("segment_length", "skip", "documents", "long_enough", "seed")}
        return cls(nll=nll, targets=[Target(*pair) for pair in values["targets"]], **rest)
