"""Progress of anything that takes more than a moment: one style for every command, on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

_DELAY = 1.0  # seconds before anything is shown
_EVERY = 30.0  # seconds between two lines where there is no terminal


class Bars:
    """A bar with the time left for each piece of work on a terminal, a plain line now and then elsewhere.

        with Bars() as bars:
            bars("reading", 2_000, 10_000, "1,000 tokens/s")

    Nothing is shown in the first second. A terminal that cannot move its cursor (TERM=dumb) gets lines, and
    with NO_COLOR there are no colours.

    Args:
        every: least seconds between two lines; 0 says each of them.
    """

    def __init__(self, every: float = _EVERY):
        self.every = every
        self.started = time.monotonic()
        self.said = self.started - every + _DELAY if every else 0.0
        self._bars: Any = None
        self._began: dict[str, float] = {}
        self._ids: dict[str, Any] = {}
        from rich.console import Console

        self.console = Console(stderr=True)
        self.live = self.console.is_terminal and not self.console.is_dumb_terminal

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __call__(self, name: str, done: float, total: float | None = None, detail: str = "") -> None:
        """done: how much of the work `name`, of `total` (None: not known). detail: a line beside it."""
        now = time.monotonic()
        self._began.setdefault(name, now)
        if not self.live:
            if now - self.said >= self.every:
                self.said = now
                text = _line(name, done, total, now - self._began[name])
                print(f"{text}, {detail}" if detail else text, file=sys.stderr, flush=True)
            return
        if self._bars is None and now - self.started < _DELAY:
            return
        if self._bars is None:
            self._bars = progress_bars(self.console)
            self._bars.start()
        if name not in self._ids:
            self._ids[name] = self._bars.add_task(name, total=total, completed=done, detail=detail)
        self._bars.update(self._ids[name], completed=done, total=total, detail=detail)

    def close(self) -> None:
        """Leave the bars as they are."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None


def progress_bars(console: Console) -> Progress:
    """The style of all bars: name, bar, share and times on one line, `detail` on the next; tasks need a
    `detail`. Lines are folded where a terminal is narrow, never cut off."""
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column
    from rich.text import Text

    class Lines(Progress):
        def get_renderables(self) -> Iterator[Any]:
            for task in self.tasks:
                yield self.make_tasks_table([task])
                if detail := task.fields.get("detail"):
                    yield Text(f"  {detail}", style="dim", overflow="fold")

    return Lines(
        TextColumn("{task.description:30}", markup=False, table_column=Column(overflow="fold")),
        BarColumn(bar_width=16),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )


def _line(name: str, done: float, total: float | None, seconds: float) -> str:
    if not total:
        return f"{name}: {done:,.0f}"
    left = ""
    if 0 < done < total and seconds > 0:
        minutes, rest = divmod(round(seconds * (total - done) / done), 60)
        left = f", {minutes // 60}:{minutes % 60:02}:{rest:02} left"
    return f"{name}: {done:,.0f}/{total:,.0f} ({done / total:.0%}){left}"


@contextmanager
def library_bars(shown: bool | None = None) -> Iterator[None]:
    """Whether transformers and datasets show bars of their own; by default where stderr is a terminal."""
    if shown if shown is not None else sys.stderr.isatty():
        yield
        return
    import datasets
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled(), not datasets.are_progress_bars_disabled()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if before[0]:
            logging.enable_progress_bar()
        if before[1]:
            datasets.enable_progress_bars()
