"""Variable tracking: values are handed on from variable to variable; all that hold one of them are asked for.

After the task of the same name in RULER (Hsieh et al. 2024). One statement found is not enough: each names
the variable by which the next is found.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from hmt.evaluation.tasks.base import Item, Metric, Record, Setting
from hmt.evaluation.tasks.haystack import Cell, HaystackTask, Hidden, grid, make_items, share_found

_NAME_LENGTH = 5
_NAME = rf"[A-Z]{{{_NAME_LENGTH}}}"


@dataclass(frozen=True, kw_only=True)
class VariableTracking(HaystackTask):
    """VAR X = 12345, further on VAR Y = VAR X, and so on; other chains beside.

    found: the share of the variables that stands in what was generated. exact: all of them and no other
    variable. nats: per token of the right names, in the order of the chain.

    Args:
        chains: how many values are handed on; one is asked for.
        hops: statements of a chain after its first.
    """

    name = "variables"
    metrics = (Metric("found"), Metric("exact"), Metric("nats", better="lower", show="perplexity"))
    axes = ("segments",)

    chains: int = 2
    hops: int = 4
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.chains <= 100:
            raise ValueError(f"variables.chains is {self.chains}; it must be from 1 to 100")
        if not 0 <= self.hops <= 100:
            raise ValueError(f"variables.hops is {self.hops}; it must be from 0 to 100")

    def items(self, setting: Setting) -> Sequence[Item]:
        return make_items(self, setting, grid(self.samples, self.lengths), self._hide)

    def score(self, record: Record) -> dict[str, float | None]:
        return share_found(record, _NAME)

    def _hide(self, cell: Cell, draw: Random) -> Hidden:
        size = self.hops + 1
        names = _names(draw, self.chains * size)
        values = [str(n) for n in draw.sample(range(10_000, 100_000), self.chains)]
        needles: list[tuple[float, str]] = []
        for number, value in enumerate(values):
            chain = names[number * size : (number + 1) * size]
            given = [value, *(f"VAR {name}" for name in chain)]
            depths = sorted(draw.random() for _ in chain)
            needles += [
                (depth, f"VAR {name} = {what}.")
                for depth, name, what in zip(depths, chain, given[:size], strict=True)
            ]
        answers = tuple(names[:size])
        return Hidden(
            needles=needles,
            question=f"\n\nWhich variables hold the value {values[0]}, directly or through others? They are",
            answers=answers,
            likely=" " + ", ".join(f"VAR {name}" for name in answers),
            absent=(*names, *values),
        )


def _names(draw: Random, count: int) -> list[str]:
    """Different names, of capital letters."""
    names: dict[str, None] = {}
    while len(names) < count:
        names["".join(draw.choices(string.ascii_uppercase, k=_NAME_LENGTH))] = None
    return list(names)
