"""An answer as it is written, and Ctrl-C that stops it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def printable(text: str) -> str:
    """The text with U+FFFD where a terminal would obey it."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "\ufffd" for letter in text)


class WrittenWords:
    """Tokens put out as text as they come: a letter of several tokens waits for the last of them."""

    def __init__(self, tokenizer: Any):
        self.tokenizer, self.ids, self.shown = tokenizer, list[int](), 0

    def add(self, token: int) -> None:
        """Put out what one more token completes."""
        self.ids.append(token)
        text = self.tokenizer.decode(self.ids, skip_special_tokens=True)
        if not self.shown:
            text = text.lstrip() if not text.strip() else text
        if not text.endswith("\ufffd"):
            sys.stdout.write(printable(text[self.shown :]))
            sys.stdout.flush()
            self.shown = len(text)


@contextmanager
def ctrl_c(begun: Callable[[], bool]) -> Iterator[Callable[[], bool]]:
    """Inside, Ctrl-C is noted where something has begun, and raises as ever before that, or the second time.

    Gives a function that says whether it came.
    """
    noted: list[int] = []
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: Any) -> None:
        if callable(before) and (noted or not begun()):
            before(number, frame)
        noted.append(number)

    if not callable(before):  # ignored, or not Python's
        yield lambda: False
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(noted)
    finally:
        signal.signal(signal.SIGINT, before)


def is_ctrl_c(stop: KeyboardInterrupt) -> bool:
    """Whether it was Ctrl-C, and not a signal that ends the program."""
    return getattr(stop, "signal", signal.SIGINT) == signal.SIGINT
