"""What the page is made of: its style, tables and figures. Everything stands in the one file."""

from __future__ import annotations

import base64
import html
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from hmt.evaluation.plot_style import to_bytes
from hmt.util.files import write_atomically

CSS = """
:root { color-scheme: light dark; --ink: #1d1d1f; --quiet: #62666d; --line: #d9dbdf; --page: #ffffff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8ea; --quiet: #a3a7ae; --line: #3a3d42; --page: #17181a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 54rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.5rem 0 1rem; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 0.5rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 0.4rem; }
p { margin: 0.5rem 0; max-width: 44rem; }
.note { color: var(--quiet); font-size: 0.9rem; }
small { color: var(--quiet); font-weight: 400; }
.wide { overflow-x: auto; margin: 0.9rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.93rem; }
th, td { padding: 0.32rem 0.5rem; text-align: right; white-space: nowrap; vertical-align: top;
  border-bottom: 1px solid var(--line); }
thead th { border-bottom-width: 2px; }
th:first-child, td:first-child { text-align: left; padding-left: 0; position: sticky; left: 0;
  background: var(--page); }
td.best { font-weight: 700; }
.setup th, .setup td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.setup th { font-weight: 600; white-space: nowrap; }
figure { margin: 1rem 0; padding: 0.4rem; background: #ffffff; border: 1px solid var(--line);
  border-radius: 8px; }
figure img { display: block; width: 100%; max-width: 46rem; height: auto; margin: 0 auto; }
"""


class Pictures:
    """Figures as parts of the page, and as files of a folder where one is named.

    Args:
        folder: where PNG files go too, or None.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = folder
        self.files: list[str] = []

    def __call__(self, figure: Figure, description: str, name: str) -> str:
        """The figure as HTML. name: of its file, without suffix; a number is added where it is taken."""
        data = to_bytes(figure)
        if self.folder is not None:
            file, number = f"{name}.png", 1
            while file in self.files:
                number += 1
                file = f"{name}-{number}.png"
            self.files.append(file)
            write_atomically(self.folder / file, data)
        source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        return f'<figure><img alt="{escape(description)}" src="{source}"></figure>'


def page(title: str, parts: Sequence[str]) -> bytes:
    """The whole document."""
    text = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )
    return text.encode()


def setup_table(setup: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>"
        for name, value in setup.items()
        if value is not None
    )
    return f'<div class="wide"><table class="setup">{rows}</table></div>'


def best_rows(cells: Mapping[str, list[list[float]]], best, form: str) -> list[list[tuple[str, bool]]]:
    """name -> values per column and seed, as cells "mean ± deviation", the best of each column marked."""
    means = {
        name: [statistics.fmean(values) if values else None for values in row] for name, row in cells.items()
    }
    columns = list(zip(*means.values(), strict=True))
    tops = [best((v for v in column if v is not None), default=None) for column in columns]
    rows = []
    for name, row in cells.items():
        line = [(escape(name), False)]
        for values, mean, top in zip(row, means[name], tops, strict=True):
            text = "–" if mean is None else form.format(mean)
            text += f" <small>± {form.format(statistics.stdev(values))}</small>" if len(values) > 1 else ""
            line.append((text, len(cells) > 1 and mean is not None and mean == top))
        rows.append(line)
    return rows


def plain_cells(rows: Sequence[Sequence[str]]) -> list[list[tuple[str, bool]]]:
    return [[(cell, False) for cell in row] for row in rows]


def table(header: Sequence[str], rows: Sequence[Sequence[tuple[str, bool]]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(
        "<tr>"
        + "".join(f'<td class="best">{c}</td>' if bold else f"<td>{c}</td>" for c, bold in row)
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def paragraph(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def escape(value: Any) -> str:
    return html.escape(str(value))
