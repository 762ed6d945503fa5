"""Progress of anything that takes more than a moment: one style for every command, on stderr."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

_DELAY = 1.0  # seconds before anything is shown
_EVERY = 30.0  # seconds between two lines where there is no terminal
_BAR = 16  # columns of a bar, where there is room


@dataclass
class _Work:
    """One piece of work. began, first: when it was first heard of, and how much was done by then."""

    name: str
    began: float
    first: float
    done: float = 0.0
    total: float | None = None
    detail: str = ""

    def times(self) -> str:
        """Such as: 0:00:12, 0:00:50 left."""
        passed = time.monotonic() - self.began
        new = self.done - self.first
        if not self.total or not 0 < self.done < self.total or new <= 0:
            return _clock(passed)
        return f"{_clock(passed)}, {_clock(passed * (self.total - self.done) / new)} left"

    def line(self) -> str:
        """All of it on one line, for where there is no terminal."""
        amount = f"{self.done:,.0f}"
        if self.total:
            amount += f"/{self.total:,.0f} ({self.share:.0%})"
        return f"{self.name}: {amount}, {self.times()}" + (f", {self.detail}" if self.detail else "")

    @property
    def share(self) -> float:
        return min(1.0, self.done / self.total) if self.total else 0.0

    def render(self, width: int) -> Iterator[RenderableType]:
        """Its lines on a terminal: all of it on one where that fits, else the name on a line of its own."""
        from rich.cells import cell_len
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        facts = f"{self.share:>4.0%} {self.times()}" if self.total else self.times()
        bar = max(1, min(_BAR, width - len(facts) - 3))
        name = Text(self.name, overflow="fold")
        if cell_len(self.name) + bar + len(facts) + 2 > width:
            yield name
            name = Text(" ")
        grid = Table.grid(padding=(0, 1, 0, 0))
        shown = ProgressBar(self.total or None, self.done, width=bar, pulse=not self.total)
        grid.add_row(name, shown, Text(facts, overflow="fold"))
        yield grid
        if self.detail:
            yield Text(f"  {self.detail}", style="dim", overflow="fold")


class Bars:
    """A bar with the time left for each piece of work on a terminal, a plain line now and then elsewhere.

        with Bars() as bars:
            bars("reading", 2_000, 10_000, "1,000 tokens/s")

    Nothing is shown in the first second. Where there is no terminal the last that is known is said again
    while nothing new is heard, so that long work is never silent. A terminal that cannot move its cursor
    (TERM=dumb) gets lines too, and with NO_COLOR there are no colours.

    Args:
        every: least seconds between two lines; 0 says each of them.
    """

    def __init__(self, every: float = _EVERY):
        self.every = every
        self.started = time.monotonic()
        self.said = self.started - every + _DELAY if every else 0.0
        self._works: dict[str, _Work] = {}
        self._last: _Work | None = None
        self._live: Any = None
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._beat: threading.Thread | None = None
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
        work = self._works.get(name)
        if work is None:
            work = self._works[name] = _Work(name, now, done)
        work.done, work.total, work.detail = done, total, detail
        self._last = work
        if not self.live:
            if now - self.said >= self.every:
                self._say(now)
            if self._beat is None:
                self._beat = threading.Thread(target=self._keep_saying, name="progress", daemon=True)
                self._beat.start()
        elif self._live is None and now - self.started >= _DELAY:
            from rich.live import Live

            self._live = Live(get_renderable=self.render, console=self.console, refresh_per_second=4)
            self._live.start()

    def close(self) -> None:
        """Leave the bars as they are."""
        self._closed.set()
        if self._live is not None:
            self._live.stop()
            self._live = None

    def render(self) -> RenderableType:
        """The bars: those at work and the latest others, as many as fit on the screen; all once closed."""
        from rich.console import Group

        works = list(self._works.copy().values())
        lines = {work.name: list(work.render(self.console.width)) for work in works}
        room = self.console.height - 2
        for work in sorted(works, key=lambda work: work.share < 1) if not self._closed.is_set() else ():
            if sum(map(len, lines.values())) > room:
                del lines[work.name]
        return Group(*(line for own in lines.values() for line in own))

    def _say(self, now: float) -> None:
        with self._lock:
            if self._last is not None:
                self.said = now
                # stderr may be closed by now: no reason for the work to fail
                with suppress(OSError, ValueError):
                    print(self._last.line(), file=sys.stderr, flush=True)

    def _keep_saying(self) -> None:
        every = self.every or _EVERY
        while not self._closed.wait(min(every, _DELAY)):
            now = time.monotonic()
            if now - self.said >= every:
                self._say(now)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


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
