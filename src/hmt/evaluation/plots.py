"""The figures of the report: a score along one axis, over two, within a segment, and where a memory looks.

Each function returns a matplotlib Figure and touches nothing global.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from hmt.evaluation.plot_style import (
    QUIET,
    draw_lines,
    look,
    name_lines,
    new_figure,
    plain_log_ticks,
    styled,
)
from hmt.evaluation.summary import fact_order
from hmt.util.format import fact_text, number_text

_LABELLED_CELLS = 80  # of one heat map


@styled
def axis_plot(
    lines: Mapping[str, Mapping[Any, Sequence[float]]],
    axis: str,
    label: str,
    title: str,
    show: str = "percent",
    errors: Mapping[str, Mapping[Any, tuple[float, float]]] | None = None,
    chance: float | None = None,
) -> Figure:
    """A score along one axis of a task: lines over numbers, dots side by side over names.

    axis: what the axis is called. lines: reader -> value of the axis -> scores of its runs, as they are
    shown. errors: reader -> value -> (low, high) of its interval. chance: the score of guessing, drawn as a
    dashed line over numbers.
    """
    figure, axes = new_figure()
    lines = {name: line for name, line in lines.items() if line}
    places = list(dict.fromkeys(value for line in lines.values() for value in line))
    numbers = all(isinstance(value, (int, float)) for value in places)
    if numbers:
        places.sort()
    at = dict(zip(places, _axis_places(places) if numbers else np.arange(len(places)), strict=True))
    if numbers:
        full = {n: [v for v in places if line.get(v)] for n, line in lines.items()}
        drawn = {
            name: (np.array([at[v] for v in full[name]], float), _rows([lines[name][v] for v in full[name]]))
            for name in lines
        }
        draw_lines(axes, drawn)
        if chance is not None:  # before any other line: names are given to the first ones
            axes.axhline(chance, color=QUIET, linewidth=1.2, linestyle=(0, (4, 3)), zorder=1)
    for number, (name, line) in enumerate(lines.items()):
        own = look(number)
        colour = own["color"]
        shift = 0 if numbers else 0.6 * ((number + 0.5) / len(lines) - 0.5)
        if not numbers:
            x = [at[value] + shift for value in line]
            means = [np.mean(v) for v in line.values()]
            axes.plot(x, means, **{**own, "linestyle": "none"}, zorder=3)
        for value, (low, high) in ((errors or {}).get(name) or {}).items():
            axes.plot([at[value] + shift] * 2, [low, high], color=colour, linewidth=1, alpha=0.55, zorder=2)
    _score_limits(axes, [v for line in lines.values() for runs in line.values() for v in runs], show)
    ticks = _ticks([at[place] for place in places], 12) if numbers else list(range(len(places)))
    names = [fact_text(places[i]) for i in ticks]
    axes.set_xticks([at[places[i]] for i in ticks], names)
    if not numbers and max(map(len, names)) * len(names) > 60:
        axes.tick_params(axis="x", labelrotation=30)
        for text in axes.get_xticklabels():
            text.set_horizontalalignment("right")
    axes.set_xlabel(axis)
    axes.set_ylabel(label)
    axes.set_title(title)
    if numbers:
        _settle(axes)
        extra = None
        if chance is not None:
            extra = (f"chance ({number_text(chance, show)})", (at[places[-1]], chance))
        ends = {name: (x[-1], rows[:, -1].mean()) for name, (x, rows) in drawn.items()}
        name_lines(axes, ends, extra=extra)
    else:
        handles = axes.get_lines()
        marked = [line for line in handles if line.get_marker() not in ("None", None, "")]
        axes.legend(marked, list(lines), loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure


@styled
def position_plot(
    lines: Mapping[str, Sequence[tuple[float, float | None]]], label: str, title: str
) -> Figure:
    """A score at each (token of a segment, score; None: not scored), a line per name."""
    figure, axes = new_figure()
    ends = {}
    for number, (name, values) in enumerate(lines.items()):
        known = [(place, value) for place, value in values if value is not None]
        axes.plot(*zip(*known, strict=True), **{**look(number), "marker": ""}, linewidth=1.4)
        ends[name] = (float(known[-1][0]), float(known[-1][1]))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.set_xlabel("Token of the segment")
    axes.set_ylabel(label)
    axes.set_title(title)
    _settle(axes)
    name_lines(axes, ends)
    return figure


@styled
def heat_maps(
    maps: Mapping[str, Mapping[tuple[Any, Any], float]],
    axes_names: Sequence[str],
    label: str,
    show: str = "percent",
) -> Figure:
    """A panel per reader, all with one scale of colours.

    maps: reader -> (value of the first axis, of the second) -> score, as it is shown.
    The first axis runs to the right, the second downwards.
    """
    columns, rows = (_sorted({key[i] for cells in maps.values() for key in cells}) for i in (0, 1))
    values = [value for cells in maps.values() for value in cells.values()]
    scale = _colour_scale(values, show)
    labelled = len(columns) * len(rows) <= _LABELLED_CELLS
    across = 1 if len(columns) > 10 else min(2, len(maps))
    down = -(-len(maps) // across)
    width = max(2.6, 0.62 * len(columns) + 1.0)
    height = 0.95 + 0.36 * len(rows)
    figure, _ = new_figure(min(12.0, across * width), down * height + 0.4)
    figure.clear()
    figure.set_layout_engine("constrained")
    grid = np.atleast_1d(figure.subplots(down, across, squeeze=False)).ravel()
    colours = matplotlib.colormaps["cividis"].with_extremes(bad="#f1f1f1")
    for panel, (name, cells) in zip(grid, maps.items(), strict=False):
        table = np.array([[cells.get((x, y), np.nan) for x in columns] for y in rows], float)
        image = panel.imshow(np.ma.masked_invalid(table), cmap=colours, norm=scale, aspect="auto")
        panel.grid(False)
        for (y, x), value in np.ndenumerate(table) if labelled else ():
            text = "–" if np.isnan(value) else number_text(value, show).removesuffix(".0")
            dark = not np.isnan(value) and scale(value) < 0.55
            panel.text(x, y, text, ha="center", va="center", fontsize=9, color="white" if dark else "#222222")
        for ticks, places in ((panel.set_xticks, columns), (panel.set_yticks, rows)):
            chosen = range(0, len(places), -(-len(places) // 16))
            ticks(chosen, [fact_text(places[i]) for i in chosen])
        if max(len(fact_text(place)) for place in columns) > 6:
            panel.tick_params(axis="x", labelrotation=35)
        panel.set_title(name, fontsize=11, pad=6)
    for number, panel in enumerate(grid):
        if number >= len(maps):
            panel.set_visible(False)
        if number % across == 0:
            panel.set_ylabel(axes_names[1].replace("_", " "))
        if number + across >= len(maps):
            panel.set_xlabel(axes_names[0].replace("_", " "))
    bar = figure.colorbar(image, ax=list(grid), fraction=0.04, pad=0.02)
    bar.outline.set_visible(False)
    bar.set_label(label)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # it would move things a little each time the figure is saved
    return figure


@styled
def recall_map_plot(
    weights: np.ndarray, title: str, read: str = "Segment being read", recalled: str = "Segment recalled"
) -> Figure:
    """Heat map of recall weights [rows, columns], as `recall_map` returns them; NaN is drawn grey.

    read, recalled: what a row and a column stand for.
    """
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
    axes.set_xlabel(recalled)
    axes.set_ylabel(read)
    axes.set_title(title)
    bar = figure.colorbar(image, ax=axes, pad=0.03, fraction=0.05)
    bar.outline.set_visible(False)
    bar.set_label("Recall weight (log scale; grey: not in memory)")
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    return figure


def _settle(axes: Axes) -> None:
    """Fix the limits now: names are placed beside the ends of lines by where these are on the canvas."""
    axes.margins(x=0.03)
    axes.autoscale_view()
    axes.set_xlim(axes.get_xlim())
    axes.set_ylim(axes.get_ylim())


def _colour_scale(values: Sequence[float], show: str) -> Normalize:
    """0 to 100 for percent, else what there is; logarithmic where it spans a lot."""
    known = [value for value in values if np.isfinite(value)] or [0.0]
    if show == "percent":
        return Normalize(0, 100)
    if min(known) > 0 and max(known) > 10 * min(known):
        return LogNorm(min(known), max(known))
    return Normalize(min(known), max(known))


def _axis_places(values: Sequence[float]) -> np.ndarray:
    """Where numbers stand on an axis: log2(1 + x) for counts that grow by factors, else as they are."""
    numbers = np.array(values, dtype=float)
    positive = numbers[numbers > 0]
    wide = len(positive) > 1 and positive[-1] >= 8 * positive[0] and positive[-1] > 8
    if numbers.min() >= 0 and wide and np.median(positive[1:] / positive[:-1]) > 1.3:
        return np.log2(1 + numbers)
    return numbers


def _ticks(places: Sequence[float], most: int) -> list[int]:
    """Indices of at most so many ticks, none too near to the one before."""
    gap = (max(places) - min(places)) / most
    chosen = [0]
    for index in range(1, len(places)):
        if places[index] - places[chosen[-1]] >= gap:
            chosen.append(index)
    return chosen


def _rows(columns: Sequence[Sequence[float]]) -> np.ndarray:
    """Scores per place and run as [runs, places]; a place with fewer runs than others repeats its mean."""
    most = max((len(column) for column in columns), default=0)
    full = [[*column, *[float(np.mean(column))] * (most - len(column))] for column in columns]
    return np.array(full, dtype=float).T.reshape(most, len(columns))


def _score_limits(axes: Axes, values: Sequence[float], show: str) -> None:
    known = [value for value in values if np.isfinite(value)]
    if show == "percent":
        top = max(known, default=100.0)
        axes.set_ylim(-3, 103) if top > 60 else axes.set_ylim(-0.03 * max(top, 5), 1.2 * max(top, 5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}%"))
    elif known and min(known) > 0 and max(known) > 5 * min(known):
        axes.set_yscale("log")
        plain_log_ticks(axes)


def _sorted(values: set) -> list:
    return sorted(values, key=fact_order)
