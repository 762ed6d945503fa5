"""Progress of anything that takes more than a moment: tokens per second and peak memory, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hmt.evaluation.units import byte_text, plural
from hmt.util.peak import peak_memory

_DELAY = 1.0  # seconds before a bar appears


@contextmanager
def no_bars_in_logs() -> Iterator[None]:
    """Silences the bars of transformers and datasets where stderr is no terminal, such as a log file."""
    if sys.stderr.isatty():
        yield
        return
    import datasets
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled(), not datasets.are_progress_bars_disabled()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown[0]:
            logging.enable_progress_bar()
        if shown[1]:
            datasets.enable_progress_bars()


class TokenProgress:
    """A bar on a terminal, nothing elsewhere; shown only once the work has taken a second.

    with TokenProgress("reading", device=model.device) as progress:
        progress.update(tokens, fraction=0.25)
    print(progress.summary())
    """

    def __init__(self, what: str, device: Any = None):
        self.what, self.device = what, device
        self.tokens = 0
        self.started = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> TokenProgress:
        return self

    def __exit__(self, *error: object) -> None:
        self.elapsed = time.monotonic() - self.started
        if self._bar is not None:
            self._bar.stop()

    def update(self, tokens: int, fraction: float | None = None) -> None:
        """tokens: done so far. fraction: of all the work, 0 to 1, where it is known."""
        self.tokens = tokens
        if self._bar is None and time.monotonic() - self.started > _DELAY:
            self._bar = self._start()
        if self._bar is not None:
            total = None if fraction is None else 1.0
            self._bar.update(self._task, total=total, completed=fraction or 0.0, detail=self.summary())

    def of(self, done: int, total: int) -> None:
        """`update` for callers that count tokens against a known total."""
        self.update(done, done / max(1, total))

    @property
    def seconds(self) -> float:
        return getattr(self, "elapsed", time.monotonic() - self.started)

    def summary(self) -> str:
        """Such as: 12,345 tokens, 2,000 tokens/s, peak memory 900 MiB."""
        rate = self.tokens / max(self.seconds, 1e-9)
        kind = "GPU memory" if str(self.device).startswith("cuda") else "memory"
        peak = byte_text(peak_memory(self.device))
        return f"{plural(self.tokens, 'token')}, {rate:,.0f} tokens/s, peak {kind} {peak}"

    def _start(self) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn(),
            TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[detail]}"),
        )  # fmt: skip
        bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        bar.start()
        self._task = bar.add_task(self.what, total=None, detail="")
        return bar
