"""Tokens to text as they are written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Writer:
    """The text of an answer, piece by piece; what may still change is held back.

    That is half a character, white space (there may be nothing behind it), and the beginning of a stop text.

    Args:
        tokenizer: of the model. stop: texts at which the answer ends; they are no part of it.
        strip: without white space at both ends.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str] = (), strip: bool = True):
        self._tokenizer, self._stop, self._strip = tokenizer, tuple(stop), strip
        self._ids: list[int] = []
        self._from = 0  # ids before it are settled
        self._settled = ""
        self.text = ""  # what was given out
        self.stopped = False

    @property
    def tokens(self) -> int:
        """So many were written."""
        return len(self._ids)

    def add(self, token: int) -> str:
        """What can be shown after one more token; `stopped` says whether a stop text ended the answer."""
        self._ids.append(token)
        return self._show(self._decoded(), False)

    def end(self) -> str:
        """What was held back."""
        return "" if self.stopped else self._show(self._decoded(), True)

    def _decoded(self) -> str:
        piece = self._tokenizer.decode(self._ids[self._from :], skip_special_tokens=True)
        if len(self._ids) - self._from > 32 and not piece.endswith("\ufffd") and piece:
            # decoding all of it again for every token would take the square of the time
            kept = self._tokenizer.decode(self._ids[self._from : -8], skip_special_tokens=True)
            whole = kept + self._tokenizer.decode(self._ids[-8:], skip_special_tokens=True)
            if whole == piece:
                self._settled, self._from = self._settled + kept, len(self._ids) - 8
                return self._settled + piece[len(kept) :]
        return self._settled + piece

    def _show(self, text: str, last: bool) -> str:
        if self._strip:
            text = text.lstrip()
        found = [at for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            text, self.stopped, last = text[: min(found)], True, True
        if last:
            text = text.rstrip() if self._strip else text
        else:
            text = self._sure(text.rstrip("\ufffd"))
        new = text[len(self.text) :]
        self.text += new
        return new

    def _sure(self, text: str) -> str:
        """Without an end that may be the beginning of a stop text, or of white space at the end."""
        held = 0
        for stop in self._stop:
            for size in range(min(len(stop) - 1, len(text)), 0, -1):
                if text.endswith(stop[:size]):
                    held = max(held, size)
                    break
        text = text[: len(text) - held]
        return text.rstrip() if self._strip else text
