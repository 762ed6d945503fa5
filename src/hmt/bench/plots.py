"""The figure of a benchmark, all from what `bench.json` holds."""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MultipleLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from hmt.bench.show import label
from hmt.evaluation.plot_style import QUIET, byte_ticks, look, plain_log_ticks, save, styled
from hmt.util.format import byte_text, count_text

__all__ = ["bench_plot", "save"]

Row = dict[str, Any]
_DASHES = (0, (4, 3))


@styled
def bench_plot(results: dict[str, Any]) -> Figure:
    """One panel for everything that was measured."""
    systems = list(results["systems"])
    panels: list[tuple[Callable[..., None], str, Any]] = [
        (_reading, "Reading (tokens/s)", results["reading"]),
        (_shares, "Share of the FLOP bound", [*results["reading"], *results["training"]]),
        (_first_token, "First token (s)", results["reading"]),
        (_decode, "Decoding (ms per token)", results["decode"]),
        (_reading_memory, "Peak memory, reading", results["memory"].get("reading")),
        (_training_memory, "Peak memory, training step", results["memory"].get("training")),
    ]
    panels = [panel for panel in panels if panel[2]]
    columns = 2 if len(panels) in (2, 4) else 3  # 3 also for one: the legend below needs the width
    rows = max(1, -(-len(panels) // columns))
    figure = Figure(figsize=(17.5 * columns / 3, 5 * rows))
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes, panel in zip_longest(grid, panels):
        if panel is None:
            axes.set_axis_off()
            continue
        axes.set_title(panel[1], pad=22)
        panel[0](axes, results, systems)
    settings, backbone = results["settings"], results["backbone"]
    name = settings["backbone"] or settings["shape"]
    figure.suptitle(
        f"{name}, {backbone['parameters'] / 1e6:,.0f}M parameters, {settings['dtype']} on "
        f"{device_text(results)}; segments of {settings['segment_length']} tokens, batch {settings['batch']}",
        x=0.01,
        ha="left",
        fontsize=12,
    )
    handles = [_handle(systems, system) for system in systems]
    figure.legend(handles=handles, loc="lower left", ncols=len(handles), bbox_to_anchor=(0.005, -0.07 / rows))
    figure.tight_layout(rect=(0, 0.02 / rows, 1, 1 - 0.04 / rows), w_pad=2.5, h_pad=2.5)
    return figure


def device_text(results: dict[str, Any]) -> str:
    """The name of the GPU that was measured, or the CPU with its threads."""
    device = results["settings"]["device"]
    for known in results["setup"]["devices"]:
        if known["device"] == device or (device == "cuda" and known["device"] == "cuda:0"):
            return known["name"]
    threads = results["setup"]["threads"]
    return f"{device.upper()} ({threads} thread{'' if threads == 1 else 's'})"


def _look(systems: list[str], system: str) -> dict[str, Any]:
    """Colour and marker by place in the list of systems; full attention grey and dashed."""
    if system == "full":
        return {"color": QUIET, "marker": "X", "linestyle": _DASHES}
    return look(systems.index(system))


def _handle(systems: list[str], system: str) -> Line2D:
    return Line2D([], [], label=label(system), markeredgecolor="white", **_look(systems, system))


def _line(axes: Axes, systems: list[str], rows: list[Row], x: str, y: str) -> None:
    """One line for every system, in the order of the legend."""
    for system in systems:
        points = [(row[x], row[y]) for row in rows if row["system"] == system]
        if points:
            axes.plot(
                *zip(*points, strict=True), markeredgecolor="white", markeredgewidth=0.8, zorder=3,
                **_look(systems, system),
            )  # fmt: skip


def _token_axis(axes: Axes, rows: list[Row]) -> None:
    lengths = sorted({row["length"] for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [count_text(length) for length in lengths])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("Text (tokens, log scale)")


def _log_axis(axes: Axes) -> None:
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(low / 1.25, high * 1.25)
    plain_log_ticks(axes)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def _reading(axes: Axes, results: dict[str, Any], systems: list[str]) -> None:
    rows = results["reading"]
    _line(axes, systems, rows, "length", "tokens_per_second")
    _token_axis(axes, rows)
    _log_axis(axes)
    low, high = axes.get_xlim()
    said = []
    for system, at in results["crossover"].get("reading", {}).items():
        if at is not None and low <= at["tokens"] <= high:
            axes.axvline(
                at["tokens"], color=_look(systems, system)["color"], linewidth=1, alpha=0.7, zorder=1
            )
            said.append(at["tokens"])
    if said:
        first, last = count_text(min(said)), count_text(max(said))
        span = first if first == last else f"{first} to {last}"
        text = f"upright lines: faster than full attention from here on ({span})"
        _note(axes, text)


def _first_token(axes: Axes, results: dict[str, Any], systems: list[str]) -> None:
    rows = results["reading"]
    _line(axes, systems, rows, "length", "first_token_seconds")
    for system in systems:
        points = [(row["length"], row["question_seconds"]) for row in rows if row["system"] == system]
        if points:
            look = _look(systems, system)
            axes.plot(*zip(*points, strict=True), color=look["color"], marker=look["marker"], markersize=4,
                      linewidth=1, linestyle=":", zorder=2)  # fmt: skip
    _token_axis(axes, rows)
    _log_axis(axes)
    asked = results["settings"]["question"]
    text = f"thick: text read from the start; dotted: {asked} more tokens, text read before"
    _note(axes, text)


def _note(axes: Axes, text: str) -> None:
    """A line between the title and the panel."""
    axes.text(
        0, 1.0, text, transform=axes.transAxes + ScaledTranslation(0, 5 / 72, axes.figure.dpi_scale_trans),
        fontsize=9, color=QUIET, va="bottom",
    )  # fmt: skip


def _bars(
    axes: Axes,
    systems: list[str],
    groups: list[tuple[str, dict[str, float]]],
    text: Callable[[float], str],
) -> None:
    """Groups of bars, one bar for each system that has a value there; the value stands on it, upright."""
    shown = [system for system in systems if any(system in values for _, values in groups)]
    width = 0.84 / max(1, len(shown))
    for place, (_, values) in enumerate(groups):
        for number, system in enumerate(shown):
            if system not in values:
                continue
            x = place + (number - (len(shown) - 1) / 2) * width
            axes.bar(x, values[system], width * 0.88, color=_look(systems, system)["color"], zorder=2)
            axes.annotate(
                text(values[system]), (x, values[system]), xytext=(0, 3), textcoords="offset points",
                rotation=90, ha="center", va="bottom", fontsize=8.5,
            )  # fmt: skip
    axes.set_xticks(range(len(groups)), [name for name, _ in groups])
    axes.tick_params(axis="x", length=0)
    if len(groups) == 1:
        axes.set_xlim(-0.8, 0.8)


def _shares(axes: Axes, results: dict[str, Any], systems: list[str]) -> None:
    """The longest text and the deepest training step of each kind."""
    groups: list[tuple[str, dict[str, float]]] = []
    reading = [row for row in results["reading"] if row["of_bound"] is not None]
    if reading:
        longest = max(row["length"] for row in reading)
        own = {row["system"]: row["of_bound"] for row in reading if row["length"] == longest}
        groups.append((f"reading\n{count_text(longest)}", own))
    for replay in (False, True):
        rows = [row for row in results["training"] if row["replay"] is replay and row["of_bound"] is not None]
        if rows:
            deepest = max(row["segments"] for row in rows)
            own = {row["system"]: row["of_bound"] for row in rows if row["segments"] == deepest}
            groups.append((f"training{', replay' if replay else ''}\n{deepest} segments", own))
    _bars(axes, systems, groups, lambda value: f"{value:.2f}")
    axes.margins(y=0.14)
    axes.set_ylim(bottom=0)


def _decode(axes: Axes, results: dict[str, Any], systems: list[str]) -> None:
    rows = results["decode"]
    groups = []
    for after in sorted({row["after_segments"] for row in rows}):
        own = {row["system"]: 1000 * row["mean_seconds"] for row in rows if row["after_segments"] == after}
        groups.append((f"after {after:,} segment{'' if after == 1 else 's'}", own))
    _bars(axes, systems, groups, lambda value: f"{value:.3g}")
    axes.margins(y=0.14)
    axes.set_ylim(bottom=0)
    text = "mean over one segment, its opening and closing included"
    _note(axes, text)


def _reading_memory(axes: Axes, results: dict[str, Any], systems: list[str]) -> None:
    rows = results["memory"]["reading"]
    _line(axes, systems, rows, "length", "peak")
    _token_axis(axes, rows)
    _memory_axis(axes, rows)


def _training_memory(axes: Axes, results: dict[str, Any], systems: list[str]) -> None:
    rows = results["memory"]["training"]
    _line(axes, systems, [row for row in rows if not row["replay"]], "segments", "peak")
    for system in systems:
        points = [(r["segments"], r["peak"]) for r in rows if r["replay"] and r["system"] == system]
        if points:
            look = _look(systems, system)
            axes.plot(*zip(*points, strict=True), color=look["color"], marker=look["marker"], markersize=4,
                      linewidth=1, linestyle=":", zorder=2)  # fmt: skip
    depths = sorted({row["segments"] for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(depths, [str(depth) for depth in depths])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("BPTT depth (segments, log scale)")
    _memory_axis(axes, rows)
    _note(axes, "dotted: replay")


def _memory_axis(axes: Axes, rows: list[Row]) -> None:
    """From 0, unless the values span more than a factor of 8. The thin line is what was held before."""
    peaks = np.array([row["peak"] for row in rows], dtype=float)
    axes.axhline(min(row["before"] for row in rows), color=QUIET, linewidth=0.8, zorder=1)
    if peaks.max() > 8 * peaks.min():
        axes.set_yscale("log", base=2)
        byte_ticks(axes)
    else:
        axes.set_ylim(0, 1.1 * peaks.max())
        axes.yaxis.set_major_locator(MultipleLocator(2.0 ** np.ceil(np.log2(peaks.max() / 5))))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: byte_text(value)))
