"""How figures look: colours, markers, names beside lines, ticks, and the files they are saved to."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from hmt.util.files import write_atomically
from hmt.util.format import byte_text

# Okabe and Ito's palette, which readers with any kind of colour vision can tell apart, then of Paul Tol's
# "muted" what is far from it; markers say it again.
COLOURS = [
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9",
    "#332288", "#999933", "#882255", "#44AA99", "#8C564B", "#117733",
    "#CC6677", "#AA4499", "#6b6b6b", "#000000",
]  # fmt: skip
MARKERS = ["o", "s", "D", "^", "v", "P", "X", "*"]
DASHES: list[Any] = ["-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2))]
INK, QUIET, GRID = "#222222", "#6b6b6b", "#e4e4e4"
DPI = 150
_LABELLED = 18  # characters of a name that still fit beside its line

_STYLE: Any = {
    "font.size": 11, "font.family": "DejaVu Sans", "text.color": INK,
    "axes.titlesize": 12, "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.titlepad": 12,
    "axes.labelcolor": INK, "axes.edgecolor": QUIET, "axes.linewidth": 0.8,
    "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "axes.grid": True, "axes.grid.axis": "y", "grid.color": GRID, "grid.linewidth": 0.8,
    "xtick.color": QUIET, "ytick.color": QUIET, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
    "xtick.minor.bottom": False, "ytick.minor.left": False,
    "lines.linewidth": 2.0, "lines.markersize": 6, "legend.frameon": False, "legend.fontsize": 10,
    "svg.fonttype": "none",
}  # fmt: skip

P = ParamSpec("P")


def look(number: int) -> dict[str, Any]:
    """Colour, marker and dashes of line `number`, as keywords of `plot`: 64 that are all different."""
    dashes = DASHES[number // len(COLOURS) % len(DASHES)]
    return {
        "color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)], "linestyle": dashes
    }  # fmt: skip


def styled(function: Callable[P, Figure]) -> Callable[P, Figure]:
    @wraps(function)
    def draw(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(_STYLE):
            figure = function(*args, **kwargs)
            figure.canvas.draw()
            return figure

    return draw


def new_figure(width: float = 6.4, height: float = 3.9) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height))
    return figure, figure.add_subplot()


def draw_lines(axes: Axes, lines: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """label -> (x [n], y [runs, n]): the mean as a line, the range over runs as a band."""
    for number, (x, rows) in enumerate(lines.values()):
        own = look(number)
        if len(rows) > 1:
            axes.fill_between(x, rows.min(0), rows.max(0), color=own["color"], alpha=0.18, linewidth=0)
        axes.plot(x, rows.mean(0), markeredgecolor="white", markeredgewidth=0.8, zorder=3, **own)


def name_lines(
    axes: Axes,
    ends: Mapping[str, tuple[float, float]],
    extra: tuple[str, tuple[float, float]] | None = None,
) -> None:
    """Names beside the ends of the lines, moved apart where they would touch; a legend for long names."""
    if max(map(len, ends)) > _LABELLED or not np.isfinite([y for _, y in ends.values()]).all():
        handles = axes.get_lines()[: len(ends) + (extra is not None)]
        names = [*ends, *([extra[0]] if extra else [])]
        axes.figure.canvas.draw()  # places the label of the x axis, which the legend stands below
        low = axes.transAxes.inverted().transform(axes.xaxis.label.get_window_extent())[0, 1]
        axes.legend(handles, names, loc="upper left", bbox_to_anchor=(0, low - 0.02))
        return
    labels = [(name, place, look(i)["color"]) for i, (name, place) in enumerate(ends.items())]
    if extra:
        labels.append((*extra, QUIET))
    axes.margins(x=0.03)
    axes.figure.canvas.draw()  # settles the axis limits
    bottom = axes.transAxes.transform((0, 0))[1]
    heights = [(axes.transData.transform(place)[1] - bottom) for _, place, _ in labels]
    right = axes.transAxes.transform((1, 0))[0]
    line = 1.35 * matplotlib.rcParams["font.size"] * axes.figure.dpi / 72
    for (name, place, colour), want, at in zip(labels, heights, spread(heights, line), strict=True):
        end = axes.transData.transform(place)
        axes.annotate(
            name, place, xytext=(right + 16 - end[0], at - want), textcoords="offset pixels",
            va="center", ha="left", color=colour, annotation_clip=False,
            arrowprops={
                "arrowstyle": "-", "color": colour, "alpha": 0.4, "linewidth": 0.8, "shrinkA": 0,
                "shrinkB": 4,
            },
        )  # fmt: skip


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Places at least `gap` apart, in the order of `wanted` and near to it."""
    order = np.argsort(wanted, kind="stable")
    blocks: list[tuple[float, int]] = []  # (centre, labels) of runs that touch, from below
    for index in order:
        centre, size = float(wanted[index]), 1
        while blocks and centre - blocks[-1][0] < gap * (size + blocks[-1][1]) / 2:
            below, number = blocks.pop()
            centre = (centre * size + below * number) / (size + number)
            size += number
        blocks.append((centre, size))
    places = [c + gap * (i - (n - 1) / 2) for c, n in blocks for i in range(n)]
    result = [0.0] * len(places)
    for index, place in zip(order, places, strict=True):
        result[index] = place
    return result


def byte_ticks(axes: Axes) -> None:
    """At most 8 powers of two within the limits, as KiB, MiB, ..."""
    low, high = np.log2(axes.get_ylim())
    step = max(1, int(np.ceil((high - low) / 7)))
    step += -step % 5 if step > 3 else 0  # 5 and 10 keep the numbers short: 1, 32, 1024
    axes.yaxis.set_major_locator(FixedLocator([2.0**p for p in range(0, int(high) + 1, step) if p >= low]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: byte_text(value)))


def plain_log_ticks(axes: Axes) -> None:
    """10, 20, 50, 100 ... within the limits, written out."""
    low, high = axes.get_ylim()
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    axes.yaxis.set_major_locator(FixedLocator([m * 10.0**p for p in powers for m in (1, 2, 5)]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylim(low, high)


def to_bytes(figure: Figure, kind: str = "png") -> bytes:
    """The figure as "png" (150 dpi, white background) or "svg"."""
    buffer = io.BytesIO()
    # No date: the same results give the same file. Its maker: it may be replaced by the next one.
    metadata = {"Date": None, "Creator": "hmt"} if kind == "svg" else {"Software": "hmt"}
    with matplotlib.rc_context(_STYLE):
        figure.savefig(
            buffer,
            format=kind,
            dpi=DPI,
            bbox_inches="tight",
            pad_inches=0.15,
            facecolor="white",
            metadata=metadata,
        )
    return buffer.getvalue()


def save(figure: Figure, path) -> None:
    """Write a .png or .svg file; ValueError for another one, and where it would replace something else."""
    kind = Path(path).suffix.lower().removeprefix(".")
    if kind not in ("png", "svg"):
        raise ValueError(f"{path}: figures are saved as .png or .svg")
    write_atomically(path, to_bytes(figure, kind), "figure")
