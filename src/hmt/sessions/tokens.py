"""A token that knows how likely it was."""

from __future__ import annotations

from typing_extensions import Self


class Token(int):
    """The id of a token that was written.

    Attributes:
        logprob: natural logarithm of its probability by the model alone, before temperature and penalties.
        top: the likeliest tokens of that place with theirs, best first.
    """

    logprob: float
    top: tuple[tuple[int, float], ...]

    def __new__(cls, token: int, logprob: float, top: tuple[tuple[int, float], ...] = ()) -> Self:
        self = super().__new__(cls, token)
        self.logprob, self.top = logprob, top
        return self
