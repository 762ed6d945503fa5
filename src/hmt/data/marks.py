"""Pages and sections of a text: at which character each begins."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple


class Mark(NamedTuple):
    """From character `at` on a text is of this page or section, such as "page 12" or "chapter: Loomings"."""

    at: int
    label: str


def label_at(marks: Sequence[Mark], character: int) -> str | None:
    """The page or section that a character is of; None before the first one."""
    index = bisect_right(marks, character, key=lambda mark: mark.at)
    return marks[index - 1].label if index else None


def label_between(marks: Sequence[Mark], begin: int, end: int) -> str | None:
    """What characters from `begin` up to `end` are of: one label, or "page 12 to page 13"."""
    first, last = label_at(marks, begin), label_at(marks, max(begin, end - 1))
    if first is None or last is None or first == last:
        return first or last
    return f"{first} to {last}"
