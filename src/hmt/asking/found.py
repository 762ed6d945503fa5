"""What was recalled for a question: which segment, how much, and where it was read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from hmt.asking.places import Place
from hmt.data.marks import Mark, label_at, label_between

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Found:
    """A passage that was recalled.

    Attributes:
        weight: of recall, 0 to 1; those of all segments sum to 1.
        segment: which one of the memory, counted from 0.
        text: what it says; None where the memory keeps no tokens.
        file: the document it is from; None of a memory file, which names none.
        tokens: from and to, in the document (of a memory file: in all that was read), counted from 0.
        characters: the same in characters of the document as it was read (line ends are one character); None
            where they are not known.
        line: of the document that the passage begins in, counted from 1; None where it is not known.
        section: the page or section that it stands in; None where the document has none.
        document: of a session, the id of the document.
        read_again: whether the model reads it again before it answers.
    """

    weight: float
    segment: int
    text: str | None
    file: str | None
    tokens: tuple[int, int]
    characters: tuple[int, int] | None = None
    line: int | None = None
    section: str | None = None
    document: str | None = None
    read_again: bool = False

    @classmethod
    def at(
        cls,
        passage: Any,
        place: Place,
        decoded: str | None,
        name: str,
        text: str | None,
        marks: Sequence[Mark] = (),
        lined: bool = True,
    ) -> Found:
        """A passage that stands at `place` in a document.

        Args:
            passage: with `weight` and `segment`. decoded: its text, as its tokens say it.
            name, text, marks, lined: of the document; text is None where it was not kept.
        """
        known = cls(passage.weight, passage.segment, decoded, name, place.tokens)
        known = replace(known, read_again=bool(getattr(passage, "read_again", False)))
        begin, end = place.characters or (None, None)
        if begin is None:
            return known
        if text is None:
            label = label_at(marks, begin)
            characters = None if end is None else (begin, end)
            return replace(known, characters=characters, section=label)
        characters = begin, len(text) if end is None else end
        said = text[slice(*characters)]  # a token may be half a character
        line = text.count("\n", 0, begin + len(said) - len(said.lstrip())) + 1 if lined else None
        label = label_between(marks, *characters)
        return replace(known, text=said, characters=characters, line=line, section=label)

    @property
    def where(self) -> str:
        """Such as: moby.txt:1203, tokens 51,200-51,455; or moby.pdf, page 12, tokens 51,200-51,455."""
        span = f"tokens {self.tokens[0]:,}-{self.tokens[1] - 1:,}"
        if self.file is None:
            return span
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return ", ".join(filter(None, (place, self.section, span)))

    def context(self, question: str, width: int = 160) -> str:
        """About `width` characters of the text on one line, those that share most with the question.

        Every different word of the question counts once, a longer one more, and less where it is frequent in
        the passage; words of up to three letters only where it has no others.
        """
        text = " ".join((self.text or "").split())
        words = [(found.start(), found.end(), found[0].casefold()) for found in _WORD.finditer(text)]
        number = Counter(word for *_, word in words)
        said = {found[0].casefold() for found in _WORD.finditer(question)}
        asked = {word for word in said if len(word) > 3} or said
        best, begin = -1.0, 0
        for first, (start, _, word) in enumerate(words):
            if best >= 0 and word not in asked:
                continue  # a better place begins with a word of the question
            shared = {later for _, end, later in words[first:] if end - start <= width and later in asked}
            score = sum(len(later) / number[later] for later in shared)
            if score > best:
                best, begin = score, start
        end = min(len(text), begin + width)
        begin = max(0, min(begin - (width - _extent(words, asked, begin, end)) // 2, len(text) - width))
        begin = _word_edge(text, begin)
        end = _word_edge(text, min(len(text), begin + width))
        return ("…" if begin else "") + text[begin:end].strip() + ("…" if end < len(text) else "")

    def facts(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def _extent(words: list[tuple[int, int, str]], asked: set[str], begin: int, end: int) -> int:
    """Characters from `begin` to the end of the last word of the question before `end`."""
    ends = [stop for start, stop, word in words if start >= begin and stop <= end and word in asked]
    return max(ends, default=end) - begin


def _word_edge(text: str, at: int) -> int:
    """The next place from `at` on that is not inside a word."""
    while 0 < at < len(text) and not text[at - 1].isspace():
        at += 1
    return at
