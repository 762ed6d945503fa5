"""Which tokens of a segment can only be known from far back: names and numbers that stood there, not lately.

Most tokens are predicted from the sentence they stand in, so the perplexity of a whole segment says little
about memory. The tokens here are what a memory is for: the parts of a name or number that occurred in the
text before the `near` tokens that stand just before the segment, and neither in these nor earlier in the
segment itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_WORD = re.compile(r"\w+(?:['’]\w+)*")
_POSSESSIVE = re.compile(r"['’]s$")
# What a sentence, a quotation or a heading may begin after: a capital there is no sign of a name. U+FFFD is
# what part of a character decodes to, such as a quotation mark.
_OPENS = re.compile(r"(?:^|[.!?:;\n\"“”‘(\[*_—\ufffd-]|\s['])\s*$")


class Word(NamedTuple):
    """A word and the positions of the tokens that spell it, `first` to `last`."""

    text: str
    first: int
    last: int
    opens: bool  # stands where every word has a capital

    @property
    def names(self) -> bool:
        """A number, or a name as far as capitals tell."""
        if any(character.isdigit() for character in self.text):
            return True
        return len(self.text) > 2 and self.text[0].isupper() and not self.opens


def words_of(tokenizer, ids: Sequence[int]) -> Iterator[Word]:
    """The words of a text given as token ids [T]. A token that holds parts of two words belongs to both."""
    pieces = [tokenizer.decode([token]) for token in ids]
    owner = [position for position, piece in enumerate(pieces) for _ in piece]
    text = "".join(pieces)
    for match in _WORD.finditer(text):
        word = _POSSESSIVE.sub("", match.group())
        last = owner[match.start() + len(word) - 1]
        opens = _OPENS.search(text, max(0, match.start() - 8), match.start()) is not None
        yield Word(word, owner[match.start()], last, opens)


def distant_tokens(tokenizer, history: Sequence[int], target: Sequence[int], near: int) -> list[int]:
    """Positions in `target` of names and numbers that `history` holds, but not among its last `near` tokens.

    A word counts at its first place in the target only: later ones can be copied from there.
    """
    split = max(0, len(history) - near)
    far = {word.text for word in words_of(tokenizer, history[:split])}
    lately = {word.text for word in words_of(tokenizer, history[split:])}
    positions: set[int] = set()
    # the words just before the target tell whether its first word opens a sentence or goes on
    joint = [*history[-4:], *target]
    begin = len(joint) - len(target)
    for word in words_of(tokenizer, joint):
        if word.first < begin:
            lately.add(word.text)
        elif word.text not in lately:
            lately.add(word.text)
            if word.names and word.text in far:
                positions.update(range(word.first - begin, word.last - begin + 1))
    return sorted(positions)
