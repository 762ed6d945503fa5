"""One HTML page with all that an evaluation found: works offline and on a phone, in light and dark."""

from __future__ import annotations

import html
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hmt.evaluation import plots
from hmt.evaluation.memory_use import MemoryUse
from hmt.evaluation.recall_task import RecallResult
from hmt.evaluation.results import HistoryResult
from hmt.evaluation.units import byte_text, plural
from hmt.files import write_atomically

_CSS = """
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
    parts = [f"<h1>{_escape(title)}</h1>"]
    parts += [
        f"<p>{_escape(text)}</p>" for text in str(results.get("summary") or "").split("\n\n") if text.strip()
    ]
    if results.get("perplexity"):
        parts += _perplexity(_load(HistoryResult, results["perplexity"]), results)
    if results.get("recall"):
        parts += _recall({name: _load_all(RecallResult, value) for name, value in results["recall"].items()})
    if results.get("memory"):
        parts += _memory({name: _load(MemoryUse, value) for name, value in results["memory"].items()})
    if results.get("recall_map") is not None:
        parts += _recall_maps(results["recall_map"])
    if results.get("setup"):
        parts += _setup(results["setup"])
    page = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )
    write_atomically(Path(path), page.encode())


def _perplexity(result: HistoryResult, results: Mapping[str, Any]) -> list[str]:
    groups = results.get("groups") or {name: [name] for name in result.models}
    first = result.skip + 1
    note = (
        f"Every number scores the same {result.tokens:,} tokens: number {first} to {result.segment_length} "
        f"of {len(result.targets)} segments of {result.segment_length} tokens from "
        f"{plural(result.documents_used, 'document')}. Only the number of segments read before them differs. "
        "Lower is better; the best of each column is bold."
    )
    cells = {
        label: [[result.perplexity(name, h) for name in names] for h in result.histories]
        for label, names in groups.items()
    }
    header = ["Segments", *map(str, result.histories)]
    parts = ["<h2>Perplexity against history</h2>", _paragraph(note)]
    parts.append(_table(header, _best_rows(cells, min, "{:.3f}")))
    if any(len(names) > 1 for names in groups.values()):
        parts.append(_paragraph("± is the standard deviation over seeds."))
    parts.append(_figure(plots.perplexity_plot(result, groups), "Perplexity against history"))
    baseline = results.get("baseline")
    if baseline is not None and baseline in groups and len(groups) > 1:
        parts += _differences(result, groups, baseline)
    return parts


def _differences(result: HistoryResult, groups: Mapping[str, Sequence[str]], baseline: str) -> list[str]:
    rows = []
    for label, names in groups.items():
        if label == baseline:
            continue
        row = [_escape(label)]
        for history in result.histories:
            # seeds of a system are averaged per target first: the interval is about the text, not the seeds
            gap = result.merged({label: names, baseline: groups[baseline]}).paired(label, baseline, history)
            row.append(
                f"{gap.mean:+.3f}<br><small>{gap.low:+.3f} to {gap.high:+.3f}</small>".replace("-", "−")
            )
        rows.append(row)
    note = (
        f"Nats per token more (+) or less (−) than {baseline} on the same tokens, with 95% bootstrap "
        "intervals over the scored segments. An interval that contains 0 is no evidence of a difference."
    )
    header = ["Segments", *map(str, result.histories)]
    return [f"<h3>Difference to {_escape(baseline)}</h3>", _paragraph(note), _table(header, _cells(rows))]


def _recall(runs: Mapping[str, list[RecallResult]]) -> list[str]:
    one = next(iter(runs.values()))[0]
    note = (
        "Every segment hides a key with a value; the last one asks for one of them. Chance is "
        f"{100 * one.chance:.2g}%, with {one.samples} samples per number and seed."
    )
    counts = sorted({n for of in runs.values() for result in of for n in result.segments})
    parts = ["<h2>Recall of hidden values</h2>", _paragraph(note)]
    for heading, field in (
        ("Accuracy", "accuracy"),
        ("Share of recall weight on the segment that holds the answer", "evidence_weight"),
        ("How often that segment has the largest recall weight", "evidence_hits"),
    ):
        cells = {name: [_percents(of, n, field) for n in counts] for name, of in runs.items()}
        cells = {name: row for name, row in cells.items() if any(row)}
        if cells:
            parts += [f"<h3>{heading} (%)</h3>"]
            parts.append(_table(["Segments", *map(str, counts)], _best_rows(cells, max, "{:.1f}")))
    if any(len(of) > 1 for of in runs.values()):
        parts.append(
            _paragraph("± is the standard deviation over seeds; the band of the plot is their range.")
        )
    return [*parts, _figure(plots.recall_plot(runs), "Accuracy against number of segments")]


def _percents(runs: Sequence[RecallResult], segments: int, field: str) -> list[float]:
    values = [getattr(run.points[segments], field) for run in runs if segments in run.points]
    return [100 * value for value in values if value is not None]


def _memory(uses: Mapping[str, MemoryUse]) -> list[str]:
    rows = []
    for name, use in uses.items():
        longest = f"{byte_text(use.kv_cache[-1])} at {use.tokens[-1]:,} tokens"
        rows.append([_escape(name), byte_text(use.state[-1]), byte_text(use.open_segment), longest])
    header = ["System", "Kept, at any length", "While generating, on top", "KV cache of full attention"]
    note = "What one stream carries from segment to segment: its state and its unfinished segment."
    return [
        "<h2>Bytes kept per stream</h2>",
        _paragraph(note),
        _table(header, _cells(rows)),
        _figure(plots.memory_plot(uses), "Bytes per stream against length"),
    ]


def _recall_maps(maps: Any) -> list[str]:
    named = maps if isinstance(maps, Mapping) else {"What is recalled while reading": maps}
    figures = [
        _figure(plots.recall_map_plot(np.asarray(value, dtype=np.float32), name), name)
        for name, value in named.items()
    ]
    return ["<h2>Recall map</h2>", *figures]


def _setup(setup: Mapping[str, Any]) -> list[str]:
    rows = "".join(
        f"<tr><th>{_escape(name)}</th><td>{_escape(value)}</td></tr>"
        for name, value in setup.items()
        if value is not None
    )
    return ["<h2>Setup</h2>", f'<div class="wide"><table class="setup">{rows}</table></div>']


def _best_rows(cells: Mapping[str, list[list[float]]], best, form: str) -> list[list[tuple[str, bool]]]:
    """name -> values per column and seed, as cells "mean ± deviation", the best of each column marked."""
    means = {
        name: [statistics.fmean(values) if values else None for values in row] for name, row in cells.items()
    }
    columns = list(zip(*means.values(), strict=True))
    tops = [best((v for v in column if v is not None), default=None) for column in columns]
    rows = []
    for name, row in cells.items():
        line = [(_escape(name), False)]
        for values, mean, top in zip(row, means[name], tops, strict=True):
            text = "–" if mean is None else form.format(mean)
            text += f" <small>± {form.format(statistics.stdev(values))}</small>" if len(values) > 1 else ""
            line.append((text, len(cells) > 1 and mean is not None and mean == top))
        rows.append(line)
    return rows


def _cells(rows: Sequence[Sequence[str]]) -> list[list[tuple[str, bool]]]:
    return [[(cell, False) for cell in row] for row in rows]


def _table(header: Sequence[str], rows: Sequence[Sequence[tuple[str, bool]]]) -> str:
    head = "".join(f"<th>{_escape(name)}</th>" for name in header)
    body = "".join(
        "<tr>"
        + "".join(f'<td class="best">{c}</td>' if bold else f"<td>{c}</td>" for c, bold in row)
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _figure(figure, description: str) -> str:
    return f'<figure><img alt="{_escape(description)}" src="{plots.data_uri(figure)}"></figure>'


def _paragraph(text: str) -> str:
    return f'<p class="note">{_escape(text)}</p>'


def _escape(value: Any) -> str:
    return html.escape(str(value))


def _load(kind, value):
    return kind.from_dict(value) if isinstance(value, Mapping) else value


def _load_all(kind, value) -> list:
    values = value if isinstance(value, (list, tuple)) else [value]
    return [_load(kind, one) for one in values]
