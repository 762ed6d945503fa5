"""What the demo looks like while it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from hmt.demo.corpus import Corpus
from hmt.demo.summary import SYSTEMS

_TITLES = {
    "backbone": "language model",
    "recall": "hidden keys",
    "ask": "hidden keys",
    "text": "library text",
    "score": "held-out text",
    "read": "long document",
    "continue": "long document",
}


def _title(job: str) -> str:
    kind, _, system = job.partition("-")
    return _TITLES[kind] + (f", {SYSTEMS[system]}" if system else "")


class Display:
    """A bar for every job under way, and the tables as their rows come in."""

    def __init__(self, corpus: Corpus, folder: Path):
        self.console, self.folder = Console(), folder
        self.progress = Progress(
            TextColumn("{task.description:36}"),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[text]:28}"),
            TimeElapsedColumn(),
            console=self.console,
        )
        self.tasks: dict[str, Any] = {}
        self.recall: dict[str, dict] = {}
        self.perplexity: dict[str, dict] = {}
        self.results: dict[str, Any] = {}
        words = f"{len(corpus.train)} documents to train on, {len(corpus.held_out)} held out"
        self.console.print(f"[bold]hmt demo[/bold]  {words}; everything is left in {folder}/")
        self.live = Live(self._layout(), console=self.console, refresh_per_second=4)

    def __enter__(self) -> Display:
        self.live.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self.live.update(self._layout())
        self.live.__exit__(*error)

    def __call__(self, event: str, job: str, **values: Any) -> None:
        if event in ("begin", "progress") and job not in self.tasks:
            self.tasks[job] = self.progress.add_task(_title(job), total=None, text="")
        if event == "begin":
            self.progress.update(self.tasks[job], text=values["text"])
        elif event == "progress":
            self.progress.update(
                self.tasks[job], completed=values["done"], total=values["total"], text=values["text"]
            )
        else:
            self._end(job, values["result"])
        self.live.update(self._layout())

    def _end(self, job: str, result: Any) -> None:
        if job in self.tasks:
            self.progress.remove_task(self.tasks.pop(job))
        kind, _, system = job.partition("-")
        if kind == "ask":
            self.recall[system] = {int(n): p["accuracy"] for n, p in result["points"].items()}
        elif kind == "score":
            from hmt.evaluation import HistoryResult

            scored = HistoryResult.from_dict(result)
            self.perplexity[system] = {h: scored.perplexity(system, h) for h in scored.histories}
        elif kind == "backbone" and result.get("loss_end"):
            start, end = result["loss_start"], result["loss_end"]
            self.live.console.print(
                f"language model: {result['parameters'] / 1e6:.1f} M parameters, "
                f"loss {start:.2f} -> {end:.2f}"
            )
        elif job == "continue":
            self.results = result

    def _layout(self) -> Group:
        parts: list[Any] = []
        if self.recall:
            title = "Answers to a question about one hidden value, by number of segments"
            parts.append(_table(title, self.recall, "{:.0%}"))
        if self.perplexity:
            title = "Perplexity on held-out text, by segments of history (lower is better)"
            parts.append(_table(title, self.perplexity, "{:.2f}"))
        return Group(*parts, self.progress)

    def conclude(self) -> None:
        """The end of the show: the document, its continuation and where everything is."""
        read = self.results
        self.console.print(
            f"read {read['name']}: {read['tokens']:,} tokens "
            f"into a memory file of {read['file_bytes']:,} bytes"
        )
        self.console.print(Panel(Text(read["continuation"].strip("\n")), title="continued in a new process"))
        self.console.print(f"report: [bold]{self.folder / 'report.html'}[/bold]")


def _table(title: str, rows: dict[str, dict[int, float]], form: str) -> Table:
    columns = sorted({number for row in rows.values() for number in row})
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for number in columns:
        table.add_column(str(number), justify="right")
    for system in SYSTEMS:
        if system in rows:
            cells = [form.format(rows[system][n]) if n in rows[system] else "" for n in columns]
            table.add_row(SYSTEMS[system], *cells)
    return table
