"""Facts hidden in books: bAbI stories (BABILong) and needles, as runs of tokens that end where sentences do.

Shared by `babilong.py` and `needles.py`. A text is a list of sentences, each a list of tokens; `pieces` puts
whole sentences together into segments of at most L tokens, which a model with passages can read
(`model.flush` after each, or `segment_ends`). A fact is then never cut, and one that is put into a text
changes a few segments around it: soon the ends fall together again. So the segments of a book are embedded
once for all texts that are made of it.
"""

from __future__ import annotations

import json
import lzma
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hmt.data.questions.text import plain, sentences

TASKS = {
    "qa1": "qa1_single-supporting-fact",
    "qa2": "qa2_two-supporting-facts",
    "qa3": "qa3_three-supporting-facts",
    "qa4": "qa4_two-arg-relations",
    "qa5": "qa5_three-arg-relations",
}
# words that stand for one another within a story
_ALIKE = (
    ("John", "Mary", "Sandra", "Daniel"),
    ("Fred", "Bill", "Jeff"),
    ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office"),
    ("apple", "football", "milk"),
)


@dataclass(frozen=True)
class Story:
    """facts in order, a question, its answer (one word), and which facts it follows from."""

    task: str
    facts: tuple[str, ...]
    question: str
    answer: str
    support: tuple[int, ...]

    def exchanged(self, rng: random.Random) -> Story:
        """The same story of other persons, places and things."""
        table: dict[str, str] = {}
        for alike in _ALIKE:
            table |= dict(zip(alike, rng.sample(alike, len(alike)), strict=True))

        def other(text: str) -> str:
            return re.sub(r"\w+", lambda word: table.get(word.group(), word.group()), text)

        facts = tuple(map(other, self.facts))
        return replace(self, facts=facts, question=other(self.question), answer=other(self.answer))

    def explained(self) -> str:
        """What a model is taught to say: the facts that are needed, and the answer."""
        return " ".join([*(self.facts[i] for i in self.support), f"Answer: {self.answer}"])


def stories(folder: Path, task: str, split: str) -> list[Story]:
    """All questions of a task: those of `en-10k` where there are any, for training."""
    places = [folder / "en-10k", folder / "en"] if split == "train" else [folder / "en"]
    path = next(p for place in places if (p := place / f"{TASKS[task]}_{split}.txt").exists())
    found: list[Story] = []
    facts: list[tuple[int, str]] = []
    for line in path.read_text().splitlines():
        number, rest = line.strip().split(" ", 1)
        if number == "1":
            facts = []
        if "\t" not in rest:
            facts.append((int(number), rest.strip()))
            continue
        question, answer, support = (part.strip() for part in rest.split("\t"))
        order = {n: i for i, (n, _) in enumerate(facts)}
        needed = tuple(order[int(n)] for n in support.split())
        found.append(Story(task, tuple(text for _, text in facts), question, answer, needed))
    return found


class Books:
    """The sentences of a file of books, one book after another, in tokens."""

    def __init__(self, path: Path, tokenizer: Any, seed: int | None = None):
        with lzma.open(path, "rt") as file:
            self._texts = [json.loads(line)["text"] for line in file]
        if seed is not None:
            random.Random(seed).shuffle(self._texts)
        self._tokenizer = tokenizer
        self._stream = self._sentences()

    def _sentences(self) -> Iterator[list[int]]:
        while True:
            for text in self._texts:
                found = [plain(text[a:b]) for a, b in sentences(text, shortest=2, longest=2000)]
                for start in range(0, len(found), 1000):
                    yield from encode(self._tokenizer, found[start : start + 1000])

    def take(self, tokens: int) -> list[list[int]]:
        """The next sentences, so many tokens or a few more."""
        taken, number = [], 0
        while number < tokens:
            taken.append(next(self._stream))
            number += len(taken[-1])
        return taken


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Tokens of sentences, each with the space in front that it has inside a text."""
    return tokenizer([f" {text}" for text in texts], add_special_tokens=False).input_ids if texts else []


def pieces(text: Sequence[Sequence[int]], length: int) -> list[list[int]]:
    """Segments of at most `length` tokens that end where sentences end; longer sentences are cut."""
    found: list[list[int]] = []
    for sentence in text:
        if found and len(found[-1]) + len(sentence) <= length:
            found[-1] = [*found[-1], *sentence]
        else:
            found += [list(sentence[i : i + length]) for i in range(0, len(sentence), length)]
    return found


def hide(
    background: Sequence[list[int]], facts: Sequence[list[int]], places: Sequence[float]
) -> list[list[int]]:
    """Sentences with facts between them, in their order; places: 0 (in front of all) to 1, ascending."""
    seams = sorted(round(place * len(background)) for place in places)
    text, done = [], 0
    for seam, fact in zip(seams, facts, strict=True):
        text += [*background[done:seam], fact]
        done = seam
    return [*text, *background[done:]]


def cut(background: Sequence[list[int]], tokens: int) -> list[list[int]]:
    """The first sentences, at most so many tokens."""
    taken, number = [], 0
    for sentence in background:
        number += len(sentence)
        if number > tokens:
            break
        taken.append(sentence)
    return taken


NEEDLE = "One of the special magic numbers for {key} is: {value}."
NEEDLE_QUESTION = "What is the special magic number for {key} mentioned in the provided text?"


def number(rng: random.Random) -> str:
    """Seven digits."""
    return str(rng.randrange(1_000_000, 10_000_000))
