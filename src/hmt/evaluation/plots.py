"""The figures of the report. Each function returns a matplotlib Figure and touches nothing global."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from hmt.evaluation.memory_use import MemoryUse
from hmt.evaluation.plot_style import (
    QUIET,
    byte_ticks,
    data_uri,
    draw_lines,
    name_lines,
    new_figure,
    plain_log_ticks,
    save,
    styled,
    to_bytes,
)
from hmt.evaluation.recall_task import RecallResult
from hmt.evaluation.results import HistoryResult
from hmt.evaluation.units import count_text

__all__ = ["data_uri", "memory_plot", "perplexity_plot", "recall_map_plot", "recall_plot", "save", "to_bytes"]


@styled
def perplexity_plot(result: HistoryResult, groups: Mapping[str, Sequence[str]] | None = None) -> Figure:
    """Perplexity against history. groups: label -> models drawn as one line (mean) in a band (range)."""
    groups = groups or {name: [name] for name in result.models}
    figure, axes = new_figure()
    x = np.log2(1 + np.array(result.histories, dtype=float))
    lines = {
        label: np.array([[result.perplexity(name, h) for h in result.histories] for name in names])
        for label, names in groups.items()
    }
    draw_lines(axes, {label: (x, rows) for label, rows in lines.items()})
    values = np.concatenate([rows.ravel() for rows in lines.values()])
    values = values[np.isfinite(values)]
    if values.size and values.max() > 5 * values.min():
        axes.set_yscale("log")
        plain_log_ticks(axes)
    ticks = [f"{h}\n{count_text(h * result.segment_length)}" if h else "0\nnone" for h in result.histories]
    axes.set_xticks(x, ticks)
    axes.set_xlabel("History read before the scored tokens (segments / tokens)")
    axes.set_ylabel("Perplexity (lower is better)")
    axes.set_title("Perplexity of the same tokens, by history")
    name_lines(axes, {label: (x[-1], rows[:, -1].mean()) for label, rows in lines.items()})
    return figure


@styled
def recall_plot(results: Mapping[str, RecallResult | Sequence[RecallResult]]) -> Figure:
    """Accuracy on the key-value task by number of segments; several results of a name are its seeds."""
    figure, axes = new_figure()
    runs = {
        name: [value] if isinstance(value, RecallResult) else list(value) for name, value in results.items()
    }
    lines = {
        name: (
            np.array(of[0].segments, dtype=float),
            np.array([[100 * run.accuracy(n) for n in of[0].segments] for run in of]),
        )
        for name, of in runs.items()
    }
    draw_lines(axes, lines)
    chance = 100 * next(iter(runs.values()))[0].chance
    axes.axhline(chance, color=QUIET, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
    every = sorted({n for of in runs.values() for n in of[0].segments})
    axes.set_xscale("log", base=2)
    axes.set_xticks(every, [str(n) for n in every])
    axes.set_ylim(-3, 103)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}%"))
    axes.set_xlabel("Segments, each hiding one pair (log scale)")
    axes.set_title("Hidden values found after reading")
    ends = {name: (x[-1], rows[:, -1].mean()) for name, (x, rows) in lines.items()}
    name_lines(axes, ends, extra=(f"chance ({chance:.2g}%)", (every[-1], chance)))
    return figure


@styled
def memory_plot(uses: Mapping[str, MemoryUse], kv_label: str = "full KV cache") -> Figure:
    """Bytes per stream against length of text, both logarithmic."""
    figure, axes = new_figure()
    lines = {name: (np.array(use.tokens, float), np.array([use.state], float)) for name, use in uses.items()}
    caches = sorted({tuple(zip(use.tokens, use.kv_cache, strict=True)) for use in uses.values()})
    draw_lines(axes, lines)
    for cache in caches:  # one per backbone
        axes.plot(*zip(*cache, strict=True), color=QUIET, linestyle=(0, (4, 3)), zorder=2)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    byte_ticks(axes)
    ticks = sorted({length for use in uses.values() for length in use.tokens})
    axes.set_xticks(ticks, [count_text(length) for length in ticks])
    axes.set_xlabel("Text read (tokens, log scale)")
    axes.set_title("Bytes kept per stream")
    ends = {name: (x[-1], rows[0, -1]) for name, (x, rows) in lines.items()}
    name_lines(axes, ends, extra=(kv_label, caches[-1][-1]))
    return figure


@styled
def recall_map_plot(weights: np.ndarray, title: str = "What is recalled while reading") -> Figure:
    """Heat map of `recall_map`: a row per segment being read, a column per segment recalled."""
    figure, axes = new_figure(width=6.0, height=5.2)
    known = np.ma.masked_invalid(weights)
    low = max(1e-4, float(np.ma.filled(known, np.inf).clip(1e-4).min()))
    low = min(low, 0.1)
    colours = matplotlib.colormaps["cividis"].with_extremes(bad="#f1f1f1")
    image = axes.imshow(
        np.ma.maximum(known, low),
        cmap=colours,
        norm=LogNorm(low, 1.0),
        interpolation="nearest",
        aspect="auto",
    )
    axes.grid(False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.set_xlabel("Segment recalled")
    axes.set_ylabel("Segment being read")
    axes.set_title(title)
    bar = figure.colorbar(image, ax=axes, pad=0.03, fraction=0.05)
    bar.outline.set_visible(False)
    bar.set_label("Recall weight (log scale; grey: not in memory)")
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    return figure
