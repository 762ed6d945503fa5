"""The document that every Python installation has, and questions whose answers stand in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """What is asked, and what is known of the answer.

    Attributes:
        text: the question.
        answer: the words to be said; None of a question of the user's own.
        evidence: words of the document, around the answer, by which its place is found.
    """

    text: str
    answer: str | None = None
    evidence: str | None = None

    def is_given(self, said: str) -> bool | None:
        """Whether the answer stands in what was said, as words of their own; None where it is not known."""
        return None if self.answer is None else bool(places(self.answer, said))


# Each answer stands in the reference of Python 3.10 to 3.13; `known` leaves out what another one lacks. The
# last three are asked in other words than those of the text.
QUESTIONS = [
    Question(
        "Whose document inspired most of the descriptions of patterns?",
        "Raymond Hettinger",
        "credits to Raymond Hettinger",
    ),
    Question(
        "Into which normal form are identifiers converted while parsing?",
        "NFKC",
        "converted into the normal form NFKC",
    ),
    Question(
        "Which exception is raised when a local variable is used before it has a value?",
        "UnboundLocalError",
        "UnboundLocalError",
    ),
    Question(
        "What is the encoding of a source file that declares none?",
        "UTF-8",
        "it is UTF-8 if no encoding declaration",
    ),
    Question(
        "Which method resolution order is used to search the base classes?",
        "C3",
        "C3 method resolution order",
    ),
    Question(
        "Where can one keep commands that pdb runs at startup?",
        ".pdbrc",
        '".pdbrc" exists in the user',
    ),
    Question(
        "Which norm do comparisons of floats with NaN follow?",
        "IEEE 754",
        "compliant with IEEE 754",
    ),
    Question(
        "What has to be set in the environment to make hashing of strings repeatable?",
        "PYTHONHASHSEED",
        "PYTHONHASHSEED",
    ),
]


def python_reference() -> str:
    """What `help()` shows of the language: the topics of `pydoc_data`, one after another.

    ValueError where this Python came without them.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise ValueError("this Python came without pydoc_data; give the demo a text with --text") from None
    return "\n\n".join(topic.strip() for topic in topics.values()) + "\n"


def places(words: str, text: str) -> list[int]:
    """The characters at which `words` stand in a text, in any case, whatever space is between them."""
    pattern = r"\s+".join(re.escape(word) for word in words.split())
    return [found.start() for found in re.finditer(rf"(?<!\w){pattern}(?!\w)", text, re.IGNORECASE)]


def known(questions: Sequence[Question], text: str) -> tuple[list[Question], list[Question]]:
    """Those whose answer stands in the text, or that name none, and the others."""
    here = [one for one in questions if one.evidence is None or places(one.evidence, text)]
    return here, [one for one in questions if one not in here]
