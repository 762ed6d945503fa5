"""Passkey retrieval: a number stands once in a long text, and is asked for at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from hmt.evaluation.tasks.base import Item, Metric, Record, Setting
from hmt.evaluation.tasks.haystack import Cell, DepthTask, Hidden, grid, make_items, mean_nats, written

_NEEDLE = "The pass key is {}. Remember it."
_QUESTION = "\n\nWhat is the pass key that was given above? The pass key is"


@dataclass(frozen=True, kw_only=True)
class Passkey(DepthTask):
    """A five-digit number at every length and depth.

    accuracy: the number, as a whole, stands in what was generated. nats: per token of the right number, which
    shows what a model remembers that is too weak to write it.
    """

    name = "passkey"
    metrics = (Metric("accuracy"), Metric("nats", better="lower", show="perplexity"))

    max_new_tokens: int = 16

    def items(self, setting: Setting) -> Sequence[Item]:
        return make_items(self, setting, grid(self.samples, self.lengths, self.depths), _hide)

    def score(self, record: Record) -> dict[str, float | None]:
        found = set(record["answers"]) & written(r"\d+", record["generated"])
        return {"accuracy": float(bool(found)), "nats": mean_nats(record)}


def _hide(cell: Cell, draw: Random) -> Hidden:
    number = str(draw.randrange(10_000, 100_000))
    assert cell.depth is not None
    return Hidden(
        needles=[(cell.depth, _NEEDLE.format(number))],
        question=_QUESTION,
        answers=(number,),
        likely=f" {number}",
        absent=(number,),
    )
