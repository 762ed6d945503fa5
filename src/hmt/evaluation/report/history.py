"""Sections on single measurements: perplexity against history, recall, bytes, recall maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hmt.evaluation import plots
from hmt.evaluation.memory_use import MemoryUse
from hmt.evaluation.recall_task import RecallResult
from hmt.evaluation.report.html import (
    Pictures,
    best_rows,
    escape,
    paragraph,
    plain_cells,
    setup_table,
    table,
)
from hmt.evaluation.results import HistoryResult
from hmt.evaluation.units import byte_text, plural


def sections(results: Mapping[str, Any], pictures: Pictures) -> list[str]:
    """All that `results` (see `write_report`) holds, below its title."""
    parts = [
        f"<p>{escape(text)}</p>" for text in str(results.get("summary") or "").split("\n\n") if text.strip()
    ]
    if results.get("perplexity"):
        parts += _perplexity(_load(HistoryResult, results["perplexity"]), results, pictures)
    if results.get("recall"):
        runs = {name: _load_all(RecallResult, value) for name, value in results["recall"].items()}
        parts += _recall(runs, pictures)
    if results.get("memory"):
        uses = {name: _load(MemoryUse, value) for name, value in results["memory"].items()}
        parts += _memory(uses, pictures)
    if results.get("recall_map") is not None:
        parts += _recall_maps(results["recall_map"], pictures)
    if results.get("setup"):
        parts += ["<h2>Setup</h2>", setup_table(results["setup"])]
    return parts


def _perplexity(result: HistoryResult, results: Mapping[str, Any], pictures: Pictures) -> list[str]:
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
    parts = ["<h2>Perplexity against history</h2>", paragraph(note)]
    parts.append(table(header, best_rows(cells, min, "{:.3f}")))
    if any(len(names) > 1 for names in groups.values()):
        parts.append(paragraph("± is the standard deviation over seeds."))
    parts.append(pictures(plots.perplexity_plot(result, groups), "Perplexity against history", "perplexity"))
    baseline = results.get("baseline")
    if baseline is not None and baseline in groups and len(groups) > 1:
        parts += _differences(result, groups, baseline)
    return parts


def _differences(result: HistoryResult, groups: Mapping[str, Sequence[str]], baseline: str) -> list[str]:
    rows = []
    for label, names in groups.items():
        if label == baseline:
            continue
        row = [escape(label)]
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
    return [f"<h3>Difference to {escape(baseline)}</h3>", paragraph(note), table(header, plain_cells(rows))]


def _recall(runs: Mapping[str, list[RecallResult]], pictures: Pictures) -> list[str]:
    one = next(iter(runs.values()))[0]
    note = (
        "Every segment hides a key with a value; the last one asks for one of them. Chance is "
        f"{100 * one.chance:.2g}%, with {one.samples} samples per number and seed."
    )
    counts = sorted({n for of in runs.values() for result in of for n in result.segments})
    parts = ["<h2>Recall of hidden values</h2>", paragraph(note)]
    for heading, field in (
        ("Accuracy", "accuracy"),
        ("Share of recall weight on the segment that holds the answer", "evidence_weight"),
        ("How often that segment has the largest recall weight", "evidence_hits"),
    ):
        cells = {name: [_percents(of, n, field) for n in counts] for name, of in runs.items()}
        cells = {name: row for name, row in cells.items() if any(row)}
        if cells:
            parts += [f"<h3>{heading} (%)</h3>"]
            parts.append(table(["Segments", *map(str, counts)], best_rows(cells, max, "{:.1f}")))
    if any(len(of) > 1 for of in runs.values()):
        parts.append(
            paragraph("± is the standard deviation over seeds; the band of the plot is their range.")
        )
    return [*parts, pictures(plots.recall_plot(runs), "Accuracy against number of segments", "recall")]


def _percents(runs: Sequence[RecallResult], segments: int, field: str) -> list[float]:
    values = [getattr(run.points[segments], field) for run in runs if segments in run.points]
    return [100 * value for value in values if value is not None]


def _memory(uses: Mapping[str, MemoryUse], pictures: Pictures) -> list[str]:
    rows = []
    for name, use in uses.items():
        longest = f"{byte_text(use.kv_cache[-1])} at {use.tokens[-1]:,} tokens"
        rows.append([escape(name), byte_text(use.state[-1]), byte_text(use.open_segment), longest])
    header = ["System", "Kept, at any length", "While generating, on top", "KV cache of full attention"]
    note = "What one stream carries from segment to segment: its state and its unfinished segment."
    return [
        "<h2>Bytes kept per stream</h2>",
        paragraph(note),
        table(header, plain_cells(rows)),
        pictures(plots.memory_plot(uses), "Bytes per stream against length", "memory"),
    ]


def _recall_maps(maps: Any, pictures: Pictures) -> list[str]:
    named = maps if isinstance(maps, Mapping) else {"What is recalled while reading": maps}
    figures = [
        pictures(plots.recall_map_plot(np.asarray(value, dtype=np.float32), name), name, "recall_map")
        for name, value in named.items()
    ]
    return ["<h2>Recall map</h2>", *figures]


def _load(kind, value):
    return kind.from_dict(value) if isinstance(value, Mapping) else value


def _load_all(kind, value) -> list:
    values = value if isinstance(value, (list, tuple)) else [value]
    return [_load(kind, one) for one in values]
