"""What the recall tasks share: needles hidden in filler, at any length and depth, the same for a fixed seed.

An item is asked for as a *cell*: so many segments of text, a depth, the number of the sample. A task says
what is hidden and asked there (`Hidden`); this file draws the filler, puts the needles between its sentences,
and sees to it that context and question together come to the asked-for number of tokens.

Sentences are tokenized once, and a text is put together by their counts, so that the time to build one is
linear in its length. Tokens at the seams may differ from the sum, so each text is encoded once more and
corrected.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple, overload

from hmt.evaluation.tasks.base import AnswerTask, Item, Record, Setting, encode
from hmt.evaluation.tasks.filler import Books, Filler, Piece, Sentences
from hmt.util.format import plural


class Cell(NamedTuple):
    """Where an item belongs: segments (0: no filler), depth (None: the task has none), and which sample."""

    length: int
    depth: float | None
    sample: int

    @property
    def id(self) -> str:
        depth = "" if self.depth is None else f"{float(self.depth)}/"
        return f"{self.length}/{depth}{self.sample}"


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """What one item hides and asks.

    Args:
        needles: depth (share of the filler before it) and sentence; needles of one depth stay in this order.
        absent: strings that the filler must not contain.
        question, answers, choices, likely, group: as in an `Item`.
    """

    needles: Sequence[tuple[float, str]]
    question: str
    answers: tuple[str, ...]
    absent: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    likely: str = ""
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class HaystackTask(AnswerTask):
    """Base of the recall tasks.

    Args:
        source: text to hide in: whatever `hmt.load_documents` reads; None for the built-in sentences.
        lengths: of context and question together, in segments of the run.
        samples: items of each length (and depth).
    """

    lengths: tuple[int, ...] = (4, 16, 64, 256, 1000)
    samples: int = 10

    shortest = 1  # segments (not a field)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (
            not self.lengths
            or min(self.lengths) < self.shortest
            or len(set(self.lengths)) < len(self.lengths)
        ):
            raise ValueError(
                f"{self.name}.lengths is {self.lengths}; it needs one or more different numbers of "
                f"segments, each {self.shortest} or more"
            )
        if self.samples < 1:
            raise ValueError(f"{self.name}.samples is {self.samples}; it must be 1 or more")

    def weights(self, record: Record) -> dict[str, float]:
        return {"nats": record["likely_tokens"]} if "likely_tokens" in record else {}


@dataclass(frozen=True, kw_only=True)
class DepthTask(HaystackTask):
    """Base of those whose answer lies at a known depth.

    Args:
        depths: how far into the text the answer lies: 0 at its very beginning, 1 just before the question.
    """

    axes = ("segments", "depth")

    depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        depths = self.depths
        if not depths or min(depths) < 0 or max(depths) > 1 or len(set(depths)) < len(depths):
            raise ValueError(
                f"{self.name}.depths is {depths}; it needs one or more different numbers from 0 to 1"
            )


class LazyItems(Sequence[Item]):
    """Items that are built when they are asked for: hundreds of texts of a million tokens fit in no memory.

    Attributes:
        ids: of all items, known without building any.
    """

    def __init__(self, ids: Iterable[str], build: Callable[[int], Item]) -> None:
        self.ids = list(ids)
        self._build = build

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> LazyItems: ...
    def __getitem__(self, index):
        places = range(len(self.ids))[index]
        if isinstance(places, range):
            return LazyItems(self.ids[index], lambda place: self._build(places[place]))
        return self._build(places)


def grid(samples: int, lengths: Sequence[int], depths: Sequence[float | None] = (None,)) -> list[Cell]:
    """All cells, sample by sample: the first few (`limit`, an unfinished run) are of every kind."""
    return [
        Cell(length, depth, sample) for sample in range(samples) for length in lengths for depth in depths
    ]


def make_items(
    task: HaystackTask, setting: Setting, cells: Sequence[Cell], hide: Callable[[Cell, Random], Hidden]
) -> LazyItems:
    """The items of these cells, built when asked for.

    `hide` draws what is hidden in a cell; it is asked again where the filler happens to contain it.
    ValueError for a source with too little text, a length with no room for what is hidden, and
    `max_new_tokens` that cut answers short.
    """
    cells = cells[: task.limit]
    tokenizer = setting.tokenizer
    filler: Filler = Books(tokenizer, task.source, task.split) if task.source else Sentences(tokenizer)
    filler.check(max(cell.length for cell in cells) * setting.segment_length)

    def draw_of(cell: Cell) -> Random:
        return Random(f"{task.name}/{task.seed}/{cell.id}")

    def build(number: int) -> Item:
        cell = cells[number]
        draw = draw_of(cell)
        for _ in range(20):
            hidden = hide(cell, draw)
            context = _context(filler.stream(draw), hidden, cell.length, setting)
            if context is not None:
                break
        else:
            raise ValueError(
                f"{task.name}: {task.source} contains what is to be hidden in it, such as "
                f"{hidden.absent[0]!r}, wherever it is opened; name another source"
            )
        facts: dict[str, Any] = {"segments": cell.length}
        return Item(
            id=cell.id,
            context=context,
            question=hidden.question,
            answers=hidden.answers,
            choices=hidden.choices,
            likely=hidden.likely,
            group=hidden.group,
            facts=facts if cell.depth is None else {**facts, "depth": cell.depth},
        )

    # what cannot work is an error now, not in the middle of a run
    for cell in cells:
        hidden = hide(cell, draw_of(cell))
        _budget(hidden, cell.length, setting)
        if (needed := len(encode(tokenizer, hidden.likely))) > task.max_new_tokens:
            raise ValueError(
                f"{task.name}.max_new_tokens is {task.max_new_tokens}, too few for an answer of {needed}"
            )
    return LazyItems((cell.id for cell in cells), build)


def _budget(hidden: Hidden, length: int, setting: Setting) -> tuple[int, int]:
    """Tokens that the question leaves for the context, and the needles for the filler.

    ValueError where there is no room for what is hidden.
    """
    total = length * setting.segment_length
    budget = total - len(encode(setting.tokenizer, hidden.question))
    room = budget - len(encode(setting.tokenizer, " ".join(text for _, text in hidden.needles)))
    if length and room < 0:
        raise ValueError(
            f"what is hidden and asked takes {total - room} tokens, and {plural(length, 'segment')} of "
            f"{setting.segment_length} have no room for it; choose greater lengths"
        )
    return budget, room


def _context(stream: Iterator[Piece], hidden: Hidden, length: int, setting: Setting) -> str | None:
    """Filler with the needles in it: with the question at most `length` segments, or a sentence less.

    None where the filler contains what must be absent.
    """
    tokenizer = setting.tokenizer
    needles = sorted(hidden.needles, key=lambda needle: needle[0])
    if length == 0:
        return " ".join(text for _, text in needles)
    budget, room = _budget(hidden, length, setting)
    taken: list[str] = []
    ends = [0]  # tokens up to each seam
    best: tuple[int, str, str] | None = None
    tried: set[int] = set()
    while True:
        while ends[-1] <= room and (piece := next(stream, None)):
            taken.append(piece.text)
            ends.append(ends[-1] + piece.tokens)
        count = bisect_right(ends, max(room, 0)) - 1
        if count in tried:
            break
        tried.add(count)
        text = _join(taken[:count], ends[: count + 1], needles)
        spare = budget - len(encode(tokenizer, text))
        if spare >= 0 and (best is None or spare < best[0]):
            best = (spare, text, "".join(taken[:count]))
        # the counts add up to a little more or less than the tokens of the whole
        following = ends[count + 1] - ends[count] if count < len(taken) else 0
        if 0 <= spare <= following:
            break
        room = ends[count] + spare
    if best is None:
        raise ValueError(
            f"{plural(length, 'segment')} of {setting.segment_length} tokens are too short for what is hidden"
        )
    _, text, filler = best
    return None if any(word in filler for word in hidden.absent) else text


def _join(filler: list[str], ends: list[int], needles: Sequence[tuple[float, str]]) -> str:
    """Each needle at the seam nearest to its depth; `ends` has one entry more than there is filler."""
    parts, done = [], 0
    for depth, needle in needles:
        place = depth * ends[-1]
        seam = bisect_left(ends, place)
        if seam and place - ends[seam - 1] < ends[seam] - place:
            seam -= 1
        parts += [*filler[done:seam], f" {needle}"]
        done = seam
    return "".join([*parts, *filler[done:]]).strip()


def written(pattern: str, generated: str) -> set[str]:
    """Whole words (or numbers) of this form in what was generated."""
    return set(re.findall(rf"(?<!\w){pattern}(?!\w)", generated))


def share_found(record: Record, pattern: str) -> dict[str, float | None]:
    """found: the share of the answers that was written. exact: all of them, and no more of their form."""
    answers, found = set(record["answers"]), written(pattern, record["generated"])
    return {
        "found": len(answers & found) / len(answers),
        "exact": float(answers == found),
        "nats": mean_nats(record),
    }


def mean_nats(record: Record) -> float:
    """Nats per token of the right answer."""
    return sum(record["likely_nats"]) / record["likely_tokens"]
