"""One HTML page with all that an evaluation found: works offline and on a phone, in light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hmt.evaluation.report import history, tasks
from hmt.evaluation.report.html import Pictures, escape, page
from hmt.evaluation.report.merge import Run
from hmt.util.files import write_atomically

__all__ = ["Run", "write_report", "write_runs"]


def write_report(results: Mapping[str, Any], path) -> None:
    """Write one self-contained HTML page. Whatever is missing in `results` is left out.

    Keys of `results`; values may also be what their `to_dict` returns:
        title: str. summary: str, paragraphs separated by empty lines.
        perplexity: HistoryResult. groups: label -> names of models in it that are seeds of one system.
        baseline: model or group that the others are compared with, on the same tokens, at every history.
        recall: system -> RecallResult, or a list of them, one per seed.
        memory: system -> MemoryUse.
        recall_map: array [S, S] from `recall_map`, or title -> array.
        setup: name -> value (versions, commit, hardware, command, seeds), shown as a table.
    """
    title = str(results.get("title") or "Memory evaluation")
    parts = [f"<h1>{escape(title)}</h1>", *history.sections(results, Pictures())]
    write_atomically(Path(path), page(title, parts))


def write_runs(
    runs: Sequence[Run],
    path,
    *,
    baseline: str | None = None,
    pngs: Path | None = None,
    title: str = "Memory evaluation",
) -> list[str]:
    """Write one page on any number of runs (see `Run`), merged: readers of one name are runs of one system.

    baseline: reader that the others are compared with; None takes the first window or else the first reader.
    pngs: folder for the figures as PNG files. Returns the names of those files.
    ValueError for a baseline that is in none of the runs.
    """
    pictures = Pictures(pngs)
    parts = [
        f"<h1>{escape(title)}</h1>",
        *tasks.sections([run for run in runs if run.tasks], baseline, pictures),
    ]
    for run in runs:
        if not run.tasks:
            parts.append(f"<h2>{escape(run.results.get('title') or run.label)}</h2>")
            chosen = baseline or run.results.get("baseline")
            parts += history.sections({**run.results, "baseline": chosen}, pictures)
    parts += tasks.setups([run for run in runs if run.tasks])
    write_atomically(Path(path), page(title, parts))
    return pictures.files
