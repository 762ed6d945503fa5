"""What a session knows of what it has read, and of what was said."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any, Literal

from hmt.asking.found import Found
from hmt.asking.places import ReadDocument
from hmt.data.marks import Mark

Kind = Literal["document", "turn"]
#: What is kept of a document beside its memory: its text, where its segments begin in it, or neither.
Keep = Literal["text", "offsets", "nothing"]
KEEPS = ("text", "offsets", "nothing")


@dataclass(frozen=True)
class Remembered:
    """A document that was read into a session's memory, from a segment of its own.

    Attributes:
        id: within the session, and never given twice there.
        name: as it was given.
        kind: "turn" of a question and its answer that were remembered, too.
        read: its tokens, and the characters that its segments begin at.
        first: the segment of the memory that its first one is. Negative where others were taken out after
            the memory had lost its beginning.
        digest: SHA-256 of its text.
        text: None where it was not kept.
        marks: where its pages or sections begin. lined: whether its lines are those of a file.
        keep: what was to be kept of it.
    """

    id: str
    name: str
    kind: Kind
    read: ReadDocument
    first: int
    digest: str
    text: str | None = None
    marks: tuple[Mark, ...] = ()
    lined: bool = True
    keep: Keep = "text"

    @property
    def tokens(self) -> int:
        """So many were read of it."""
        return self.read.tokens

    @property
    def segments(self) -> int:
        """So many it was read in."""
        return len(self.read.begins)

    def held(self, begin: int) -> range:
        """Its segments, counted from 0, that a memory holds whose oldest segment is `begin`."""
        return range(min(max(0, begin - self.first), self.segments), self.segments)

    def found(self, passage: Any, decoded: str | None, length: int) -> Found:
        """A passage of it, as it is shown.

        Args:
            passage: with `segment` (of the memory) and `weight`. decoded: the text that its tokens say.
            length: tokens of a whole segment.
        """
        place = self.read.place(passage.segment - self.first, length)
        found = Found.at(passage, place, decoded, self.name, self.text, self.marks, self.lined)
        return replace(found, document=self.id)


@dataclass(frozen=True)
class Turn:
    """A question that was asked, and what came of it.

    Attributes:
        passages: what was recalled for it, by weight; without those of documents that were forgotten since.
        remembered: the id of the document that it was remembered as; None of one that was not.
        created: seconds since 1970.
    """

    question: str
    answer: str
    passages: tuple[Found, ...] = ()
    remembered: str | None = None
    created: float = 0.0

    def without(self, document: str) -> Turn:
        """The same without passages of one document."""
        return replace(self, passages=tuple(one for one in self.passages if one.document != document))


def digest_of(text: str) -> str:
    """SHA-256 of a text, in hex."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
