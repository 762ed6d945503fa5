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
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any, NamedTuple, overload

from hmt.evaluation.tasks.base import AnswerTask, Item, Record, Setting, encode
from hmt.evaluation.units import plural

# The built-in filler: each sentence is one of these with or without an opening, 1,625 in all, so that none
# recurs for some 20,000 tokens. No digits, and no word of the needles or of the answers of bAbI.
_OPENINGS = (
    "", "After the rain", "All through the autumn", "As a rule", "At the usual hour",
    "Before the fair opened", "By the old bridge", "Early in the day", "For want of better weather",
    "From time to time", "In those years", "In the quiet season", "Late in the afternoon",
    "Long before sunrise", "Not far from the mill", "On feast days", "On most evenings", "On the far bank",
    "Once the frost had gone", "Out of old habit", "Toward the end of summer", "When the wind turned",
    "While the others slept", "With little haste", "Without being asked",
)  # fmt: skip
_SENTENCES = (
    "the baker swept the steps of her shop and set out the baskets",
    "a cart loaded with hay came slowly down the lane",
    "the river carried leaves and small branches toward the sea",
    "two old friends sat on the wall and spoke about the harvest",
    "the clockmaker wound every clock in the window",
    "smoke rose from the chimneys and drifted over the roofs",
    "a boy with a fishing rod walked along the embankment",
    "the ferry waited for the last passengers and then crossed",
    "somebody had left a lantern burning beside the gate",
    "the schoolmaster read aloud from a book about distant islands",
    "children floated paper boats in the fountain",
    "the miller complained that the stones wanted dressing",
    "a string of barges lay at anchor below the weir",
    "the carpenter measured the plank a second time before he cut it",
    "bees went in and out among the clover",
    "the innkeeper aired the blankets on the railing",
    "a letter arrived with a foreign stamp and was passed from hand to hand",
    "the gate of the churchyard creaked on its hinges",
    "the shepherd's hut stood empty on the slope",
    "an orchestra rehearsed the same slow waltz behind closed shutters",
    "the potter stacked her bowls in the shade to dry",
    "travellers shook the dust from their coats at the door",
    "the mayor spoke at length about the repair of the road",
    "a kite hung above the meadow without moving",
    "the weaver chose a thread of a darker shade",
    "fishermen mended their nets along the quay",
    "the stationmaster compared his watch with the timetable",
    "rain ran along the gutters and into the barrels",
    "a pedlar spread ribbons and buttons on a cloth",
    "the beekeeper's daughter practised her scales on the piano",
    "the orchard smelled of damp earth and windfalls",
    "an argument about chess went on until the lamps were lit",
    "the postman rested his bicycle against the hedge",
    "swallows gathered on the wires in long rows",
    "the blacksmith let the iron cool and wiped his forehead",
    "a choir could be heard across the water",
    "the surveyors drove pegs into the turf and tied strings between them",
    "the grocer weighed out lentils and wrapped them in paper",
    "a painter set up his easel where the path divides",
    "the tide left shells and pieces of smooth glass on the sand",
    "the midwife hurried past with her bag under her arm",
    "firewood was stacked as high as the eaves",
    "the lighthouse keeper polished the lens and wrote in his log",
    "a troupe of acrobats practised in the empty square",
    "the vines along the terrace were tied back with straw",
    "the printer hung the damp sheets over a line",
    "nobody could say who had planted the walnut tree",
    "the tailor turned an old coat so that it looked new",
    "a flock of starlings settled in the elms and rose again",
    "the gardener's apprentice raked the gravel into even lines",
    "the bell of the town hall was heard as far as the quarry",
    "the quarrymen ate their bread in the shelter of the rocks",
    "a widow from the next valley sold cheese and dried herbs",
    "the snow on the pass had begun to melt",
    "the librarian repaired the spine of an atlas with glue and linen",
    "a dog slept in the dust with its chin on its paws",
    "the glazier carried a pane of glass through the crowd",
    "the council met to settle who should clear the ditch",
    "a stork walked through the reeds with great care",
    "the chandler poured wax into the moulds and waited",
    "the harvesters sang as they came home along the dike",
    "the astronomer covered the telescope and went in to supper",
    "someone whistled a tune that everyone seemed to know",
    "the cobbler lined up the finished boots by size",
    "a thin mist lay over the fields and did not lift",
)


class Piece(NamedTuple):
    """A sentence with the blank space before it, and its number of tokens."""

    text: str
    tokens: int


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


class Filler(ABC):
    """Text to hide something in."""

    @abstractmethod
    def stream(self, draw: Random) -> Iterator[Piece]:
        """Consecutive sentences from a drawn place on."""

    @abstractmethod
    def check(self, tokens: int) -> None:
        """ValueError unless `stream` goes on for so many tokens."""


class Sentences(Filler):
    """The built-in filler: shuffled sentences, each once before any comes again, without end."""

    def __init__(self, tokenizer) -> None:
        texts = [f" {o}, {s}." if o else f" {s[0].upper()}{s[1:]}." for o in _OPENINGS for s in _SENTENCES]
        self.pieces = count_tokens(tokenizer, texts)

    def stream(self, draw: Random) -> Iterator[Piece]:
        order = list(self.pieces)
        while True:
            draw.shuffle(order)
            yield from order

    def check(self, tokens: int) -> None:
        return


class Books(Filler):
    """Documents, read on from a drawn sentence of a drawn one, and none of it twice.

    A document is cut and counted when it is first needed; the last few are kept.
    """

    def __init__(self, tokenizer, source: str, split: str) -> None:
        from hmt.data import load_documents

        self.source, self.tokenizer = source, tokenizer
        self.documents = load_documents(source, split=split)
        self.pieces = lru_cache(maxsize=64)(self._cut)

    def _cut(self, number: int) -> list[Piece]:
        return count_tokens(self.tokenizer, sentences(f"\n\n{self.documents[number]['text'].strip()}"))

    def stream(self, draw: Random) -> Iterator[Piece]:
        first, total = draw.randrange(len(self.documents)), len(self.documents)
        start = draw.randrange(len(self.pieces(first)))
        yield from self.pieces(first)[start:]
        for step in range(1, total):
            yield from self.pieces((first + step) % total)
        yield from self.pieces(first)[:start]

    def check(self, tokens: int) -> None:
        found = 0
        for number in range(len(self.documents)):
            found += sum(piece.tokens for piece in self.pieces(number))
            if found >= tokens:
                return
        raise ValueError(
            f"{self.source} holds {found:,} tokens of text, and the longest item takes {tokens:,}: "
            "name a source with more text, or shorter lengths"
        )


def count_tokens(tokenizer, texts: list[str]) -> list[Piece]:
    """Each text with its number of tokens."""
    ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return [Piece(text, len(one)) for text, one in zip(texts, ids, strict=True)]


# A stop and what closes after it, but no title or initial before it and no small letter to follow; the end
# of a paragraph.
_END = re.compile(
    r"(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bSt)(?<!\bNo)(?<!\bCapt)(?<!\bCol)(?<!\bGen)(?<!\bMons)(?<!\b[A-Z])"
    r"[.!?…][\"'”’)\]_]*(?=\s+[^a-z\s])"
    r"|[。！？][”』」]*"
    r"|\S(?=[ \t]*\r?\n[ \t]*\r?\n)"
)
_LONGEST = 600  # characters


def sentences(text: str) -> list[str]:
    """A text in sentences, each with the blank space before it: joined, they are the text.

    What runs on for longer than 600 characters (a table, verse) is cut between words.
    """
    ends = [match.end() for match in _END.finditer(text)]
    pieces = []
    for start, end in zip([0, *ends], [*ends, len(text)], strict=True):
        while end - start > _LONGEST:
            cut = max(text.rfind(blank, start + 1, start + _LONGEST + 1) for blank in " \n")
            cut = cut if cut > 0 else start + _LONGEST
            pieces.append(text[start:cut])
            start = cut
        pieces.append(text[start:end])
    return [piece for piece in pieces if piece]


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
