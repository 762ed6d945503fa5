"""Where in the documents the segments of a memory begin."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from hmt.data.marks import Mark


class Document(NamedTuple):
    """A text that is read from its first segment to its last; the next one begins a segment of its own.

    Attributes:
        marks: where its pages or sections begin, in order.
        lined: whether its lines are those of a file.
    """

    name: str
    text: str
    marks: tuple[Mark, ...] = ()
    lined: bool = True


@dataclass(frozen=True)
class ReadDocument:
    """What was read of a document.

    Attributes:
        tokens: so many.
        begins: the character that each of its segments begins at; None of a tokenizer that does not know.
    """

    tokens: int = 0
    begins: tuple[int | None, ...] = ()

    def then(self, begins: Sequence[int | None], length: int) -> ReadDocument:
        """After more tokens were read, that begin at these characters, in segments of `length`."""
        first = -self.tokens % length  # of them begins a segment
        return ReadDocument(self.tokens + len(begins), (*self.begins, *begins[first::length]))

    def place(self, index: int, length: int) -> Place:
        """Where its segment `index` stands, in segments of `length`."""
        start, characters = index * length, None
        if (begin := self.begins[index]) is not None:
            later = self.begins[index + 1 : index + 2]
            characters = begin, later[0] if later else None
        return Place((start, min(start + length, self.tokens)), characters)


class Place(NamedTuple):
    """A segment in its document: from and to, counted from 0; characters is None where unknown."""

    tokens: tuple[int, int]
    characters: tuple[int, int | None] | None


@dataclass(frozen=True)
class Places:
    """What was read of each document, in the order of the memory. done: all of the last one, too."""

    documents: tuple[ReadDocument, ...] = ()
    done: bool = False

    @property
    def tokens(self) -> int:
        """Of all documents together."""
        return sum(document.tokens for document in self.documents)

    def of(self, segment: int, length: int) -> tuple[int, Place] | None:
        """Which document a segment of the memory is of, and where it stands there, in segments of `length`;
        None of what came behind."""
        for index, document in enumerate(self.documents):
            if segment < len(document.begins):
                return index, document.place(segment, length)
            segment -= len(document.begins)
        return None

    def to_json(self) -> bytes:
        """As it is kept beside a memory."""
        documents = [{"tokens": one.tokens, "begins": one.begins} for one in self.documents]
        return json.dumps({"documents": documents, "done": self.done}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Places:
        """ValueError, KeyError or TypeError for anything but what `to_json` made."""
        found: Any = json.loads(data)
        documents = (ReadDocument(int(one["tokens"]), tuple(one["begins"])) for one in found["documents"])
        return cls(tuple(documents), bool(found["done"]))
