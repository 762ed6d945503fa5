"""Filler for the recall tasks: sentences of our own, or books, each with its number of tokens."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import lru_cache
from random import Random
from typing import NamedTuple

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
