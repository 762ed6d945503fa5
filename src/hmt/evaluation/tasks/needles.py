"""Many needles: numbers for several keys are hidden, and those of one key are asked for.

After the multi-key and multi-value needles of RULER (Hsieh et al. 2024): unlike a single passkey, what is
asked for has to be told from others of its kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from hmt.evaluation.tasks.base import Item, Metric, Record, Setting
from hmt.evaluation.tasks.haystack import Cell, DepthTask, Hidden, grid, make_items, share_found

# A key is two of these.
_FIRST = (
    "amber", "brave", "calm", "clever", "crimson", "distant", "eager", "frozen", "gentle", "golden", "hollow",
    "humble", "jolly", "lonely", "marble", "nimble", "patient", "proud", "royal", "silent", "silver", "tidy",
    "velvet", "wooden",
)  # fmt: skip
_SECOND = (
    "anchor", "badger", "beacon", "castle", "comet", "dragon", "falcon", "glacier", "hammer", "harp",
    "island", "ladder", "magnet", "meteor", "otter", "parrot", "pyramid", "rocket", "saddle", "temple",
    "trumpet", "turtle", "violin", "volcano",
)  # fmt: skip
_NEEDLE = "A special number for {key} is {value}."
_NUMBER = r"\d{5}"


@dataclass(frozen=True, kw_only=True)
class Needles(DepthTask):
    """Several keys, each with one or several five-digit numbers.

    found: the share of the asked key's numbers that stands in what was generated. exact: all of them and no
    other number. nats: per token of the right numbers, in the order of the text.

    Args:
        keys: how many are hidden; one is asked for.
        values: numbers of each key.
        depths: of the asked key's number, of one of them where it has several. Everything else is hidden at
            depths drawn anew for each item.
    """

    name = "needles"
    metrics = (Metric("found"), Metric("exact"), Metric("nats", better="lower", show="perplexity"))

    keys: int = 4
    values: int = 1
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        most = len(_FIRST) * len(_SECOND)
        if not 1 <= self.keys <= most:
            raise ValueError(f"needles.keys is {self.keys}; it must be from 1 to {most}")
        if not 1 <= self.values <= 100:
            raise ValueError(f"needles.values is {self.values}; it must be from 1 to 100")

    def items(self, setting: Setting) -> Sequence[Item]:
        return make_items(self, setting, grid(self.samples, self.lengths, self.depths), self._hide)

    def score(self, record: Record) -> dict[str, float | None]:
        return share_found(record, _NUMBER)

    def _hide(self, cell: Cell, draw: Random) -> Hidden:
        keys = draw.sample([f"{first} {second}" for first in _FIRST for second in _SECOND], self.keys)
        numbers = [str(n) for n in draw.sample(range(10_000, 100_000), self.keys * self.values)]
        assert cell.depth is not None
        depths = [cell.depth, *(draw.random() for _ in numbers[1:])]
        # the first key is the one that is asked for
        hidden = sorted(
            (depth, number, keys[i // self.values])
            for i, (depth, number) in enumerate(zip(depths, numbers, strict=True))
        )
        answers = tuple(number for _, number, key in hidden if key == keys[0])
        if self.values == 1:
            question = f"\n\nWhat is the special number for {keys[0]}? The special number for {keys[0]} is"
        else:
            question = (
                f"\n\nWhat are all the special numbers for {keys[0]}? The special numbers for {keys[0]} are"
            )
        return Hidden(
            needles=[(depth, _NEEDLE.format(key=key, value=number)) for depth, number, key in hidden],
            question=question,
            answers=answers,
            likely=" " + ", ".join(answers),
            absent=(*numbers, *keys),
        )
