"""One HTML page with all that evaluations found: works offline and on a phone, in light and dark."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from hmt.evaluation.report.merge import Run, load_runs
from hmt.evaluation.report.page import Chapter, Part, Pictures, sections
from hmt.util.files import check_output, write_atomically

__all__ = ["Chapter", "Part", "Pictures", "Run", "load_runs", "write_page", "write_runs"]


def write_runs(
    runs: Sequence[Run], path, *, baseline: str | None = None, pngs=None, title: str | None = None
) -> list[str]:
    """Write one page on any number of runs, merged: readers of one name are runs of one system.

    baseline: reader that the others are compared with; None takes the first window or else the first reader.
    pngs: folder for the figures as PNG files. title: None takes that of the first run that has one.
    Returns the names of those files. ValueError for a baseline that is in none of the runs, and for files
    that would replace something else.
    """
    check_output(path, "report")
    pictures = Pictures(None if pngs is None else Path(pngs))
    texts = [text for run in runs for text in (run.results.get("summary") or "").split("\n\n") if text]
    titles = [run.results["title"] for run in runs if run.results.get("title")]
    chapters = sections([run for run in runs if run.tasks], baseline, pictures)
    write_page(path, title or next(iter(titles), "Memory evaluation"), texts, chapters)
    return pictures.files


def write_page(path, title: str, summary: Sequence[str], chapters: Sequence[Chapter]) -> None:
    """Write one page: a title, paragraphs, and chapters. ValueError where it would replace something else."""
    page = _template().render(title=title, summary=summary, sections=chapters)
    write_atomically(path, page.encode(), "report")


@cache
def _template() -> Template:
    loader = PackageLoader("hmt.evaluation.report", package_path="")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html.jinja")
