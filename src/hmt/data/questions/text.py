"""Sentences, names and numbers of plain English text, found by rules: what questions are made of.

Nothing here is exact, and nothing has to be: a sentence or a name that is missed is a question less, and what
is not sure to be one is left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

_PARAGRAPH = re.compile(r"(?:[^\n]|\n(?!\s*\n))+")
# The end of a sentence: its mark, closing quotes and brackets, white space, and what can begin the next one.
_END = re.compile(r"[.!?][\"'”’)\]]*(?=\s+[\"'“‘(\[_]*[A-Z0-9])")
_ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|St|Sr|Jr|Prof|Rev|Hon|Capt|Col|Gen|Lieut|Lt|Sgt|Gov|Messrs|Mme|Mlle|No|Nos|Vol|vol"
    r"|pp|p|ch|cf|vs|etc|e\.g|i\.e|viz|Ph\.D|U\.S|a\.m|p\.m|c|ca|approx)|\b[A-Z])\.$"
)
_WORD = re.compile(r"[^\W_]+(?:['’.-][^\W_]+)*")
_CAPITAL = r"[A-Z][^\W\d_]+(?:['’-][^\W\d_]+)*"
_TITLE = r"(?:(?:Mr|Mrs|Ms|Dr|St|Prof|Rev|Capt|Col|Gen|Lieut)\.\s)"
_INITIAL = r"(?:[A-Z]\.\s?)"
_NAME = re.compile(
    rf"{_TITLE}?{_INITIAL}*{_CAPITAL}"
    rf"(?:\s{_INITIAL}*(?:(?:of|de|du|von|van|la|le|da|di|del|and\sthe)\s)?{_CAPITAL})*"
)
_NUMBER = re.compile(r"(?<![\w.,-])\d{1,3}(?:,\d{3})+(?![\w,-])|(?<![\w.,-])\d{2,4}(?!\w|[.,-]\d|-)")

# Words that say nothing about what a sentence is about.
FUNCTION_WORDS = frozenset(
    """a about above after again all also although am an and any are as at away back be because been before
    being but by came can come could did do does done down each either else ever every few for from get go got
    had has have having he her here hers herself him himself his how i if in into is it its itself just least
    less like made make many may me might mine more most much must my myself never no nor not now of off on
    once one only or other our out over own per perhaps quite rather said same say shall she should since so
    some still such take than that the their them then there these they this those though through thus till to
    too two under until up upon us very was way we well went were what when where which while who whom whose
    why will with within without would yet you your""".split()
)
# Capitalised words that name nothing, or nothing that one could ask for.
_NO_NAMES = frozenset(
    """I The A An And But Or If In On At He She It We You They His Her Its Our My Your Their This That These
    Those There Then When Where What Who Why How Which While With Without For From To Of As By Not No Yes Oh
    Ah O Well Now So Here Mr Mrs Ms Dr St Sir Madam Chapter CHAPTER Footnote Illustration Figure Table Section
    Part Book Vol Volume Page Note God Lord Heaven Christmas Sunday Monday Tuesday Wednesday Thursday Friday
    Saturday""".split()
)
MONTHS = "January February March April May June July August September October November December".split()


class Span(NamedTuple):
    """Characters [start, end) of a text."""

    start: int
    end: int


def sentences(text: str, shortest: int = 30, longest: int = 400) -> Iterator[Span]:
    """The sentences of `text` in order, those of `shortest` to `longest` characters; headings and verse lines
    are none.

    A sentence never crosses an empty line, and ends with a mark.
    """
    for paragraph in _PARAGRAPH.finditer(text):
        block, begin = paragraph.group(), paragraph.start()
        start = len(block) - len(block.lstrip())
        ends = [
            end.end() for end in _END.finditer(block) if not _ABBREVIATION.search(block[: end.end()][-8:])
        ]
        for end in [*ends, len(block.rstrip())]:
            sentence = block[start:end]
            if shortest <= len(sentence) <= longest and sentence.rstrip("\"'”’)]")[-1:] in {".", "!", "?"}:
                yield Span(begin + start, begin + end)
            start = end + len(block[end:]) - len(block[end:].lstrip())


def plain(text: str) -> str:
    """One line, with single spaces and without the underscores that mark italics in old books."""
    return " ".join(text.replace("_", "").split())


def words(text: str) -> list[str]:
    """The words of a text, without punctuation."""
    return _WORD.findall(text)


def is_content(word: str) -> bool:
    """Whether a word says something about what a sentence is about."""
    return len(word) > 2 and word.lower() not in FUNCTION_WORDS


class Names:
    """What is a name in one document: capitalised words that the document hardly writes small.

    A word at the beginning of a sentence is capitalised anyway; it counts where the document capitalises it
    elsewhere too.
    """

    def __init__(self, text: str):
        small: Counter[str] = Counter(re.findall(r"\b[a-z]+\b", text))
        inside: Counter[str] = Counter(re.findall(rf"(?<=[a-z,;] )({_CAPITAL})", text))
        self._words = {
            word
            for word, count in inside.items()
            if word not in _NO_NAMES and small[word.lower()] <= count and not word.isupper()
        }

    def __contains__(self, word: str) -> bool:
        return word.removesuffix("'s").removesuffix("’s") in self._words

    def find(self, sentence: str) -> Iterator[Span]:
        """The names in a sentence of that document, possessive endings left out."""
        for match in _NAME.finditer(sentence):
            parts = [part for part in words(match.group()) if part[:1].isupper() and part not in _NO_NAMES]
            if not parts or not all(part in self or part in MONTHS for part in parts):
                continue
            if any(part in MONTHS for part in parts):
                continue  # dates are found as such
            start = match.start()
            first = words(match.group())[0]
            if first in _NO_NAMES and not re.match(_TITLE, match.group()):
                start += match.group().index(parts[0], len(first))
            end = match.end() - len(match.group()) + len(re.sub(r"['’]s$", "", match.group()))
            yield Span(start, end)


def numbers(sentence: str) -> Iterator[Span]:
    """Numbers of two to four digits, or with commas, that are no part of something else."""
    for match in _NUMBER.finditer(sentence):
        yield Span(*match.span())
