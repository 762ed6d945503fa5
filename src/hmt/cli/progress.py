"""Progress over tokens: bars, tokens per second and peak memory."""

from __future__ import annotations

import time
from typing import Any

from hmt.util.environment import peak_memory
from hmt.util.format import byte_text, plural
from hmt.util.progress import Bars, library_bars

no_bars_in_logs = library_bars


class TokenProgress:
    """A bar for work that is counted in tokens, and what can be said of it afterwards.

    with TokenProgress("reading", device=model.device) as progress:
        progress.of(tokens, total)
    print(progress.summary())

    before: tokens that were done by an earlier run.
    """

    def __init__(self, what: str, device: Any = None, before: int = 0):
        self.what, self.device, self.tokens, self.before = what, device, before, before
        self.started, self.ended = time.monotonic(), 0.0
        self.bars = Bars()

    def __enter__(self) -> TokenProgress:
        return self

    def __exit__(self, *error: object) -> None:
        self.ended = time.monotonic()
        self.bars.close()

    def of(self, tokens: int, total: float | None = None) -> None:
        """tokens: done so far, of `total` (None: not known)."""
        self.tokens = tokens
        self.bars(self.what, tokens, total, self.summary())

    def summary(self) -> str:
        """Such as: 12,345 tokens, 2,000 tokens/s, peak memory 900 MiB."""
        new = self.tokens - self.before
        rate = new / max((self.ended or time.monotonic()) - self.started, 1e-9)
        kind = "GPU memory" if str(self.device).startswith("cuda") else "memory"
        return (
            f"{plural(new, 'token')}, {rate:,.0f} tokens/s, peak {kind} {byte_text(peak_memory(self.device))}"
        )
