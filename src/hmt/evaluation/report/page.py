"""What the page shows of runs, as plain values for the template: headings, notes, tables and figures."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from hmt.evaluation import plots
from hmt.evaluation.plot_style import to_bytes
from hmt.evaluation.report.merge import Run, Section, Value, merge, setting_text, value_of
from hmt.evaluation.summary import fact_order
from hmt.util import format as units
from hmt.util.files import write_atomically

_POINTS = 64  # of a curve over the tokens of a segment
Metric = Mapping[str, str]


@dataclass(frozen=True)
class Cell:
    """One cell of a table. small: behind the text, or below it. best: of its column."""

    text: str
    small: str = ""
    below: bool = False
    best: bool = False


@dataclass(frozen=True)
class Part:
    """One element of the page: a "heading", "note", "table", "facts" (name and value) or "figure"."""

    kind: str
    text: str = ""
    header: Sequence[str] = ()
    rows: Sequence[Any] = ()
    source: str = ""


@dataclass
class Chapter:
    """A part of the page below one heading."""

    title: str
    parts: list[Part] = field(default_factory=list)

    def heading(self, text: str) -> None:
        self.parts.append(Part("heading", text))

    def note(self, text: str) -> None:
        self.parts.append(Part("note", text))

    def table(self, header: Sequence[str], names: Sequence[str], columns: Sequence[Sequence[Cell]]) -> None:
        """A row per name, with its cell of every column."""
        rows = [[Cell(name), *(column[i] for column in columns)] for i, name in enumerate(names)]
        self.parts.append(Part("table", header=header, rows=rows))


class Pictures:
    """Figures as parts of the page, and as files of a folder where one is named.

    Args:
        folder: where PNG files go too, or None.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = folder
        self.files: list[str] = []

    def __call__(self, figure: Figure, description: str, name: str) -> Part:
        """name: of the file, without suffix; a number is added where it is taken."""
        data = to_bytes(figure)
        if self.folder is not None:
            file, number = f"{name}.png", 1
            while file in self.files:
                number += 1
                file = f"{name}-{number}.png"
            self.files.append(file)
            write_atomically(self.folder / file, data, "figure")
        source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        return Part("figure", description, source=source)


def sections(runs: Sequence[Run], baseline: str | None, pictures: Pictures) -> list[Chapter]:
    """The table of readers, a chapter per task, and the set-up of each run.

    ValueError for a baseline that is no reader.
    """
    if not runs:
        return []
    facts, found = merge(runs)
    if baseline is not None and baseline not in facts:
        raise ValueError(f"there is no reader {baseline!r} to compare with; choose from {', '.join(facts)}")
    chapters = [_overview(facts, found)]
    chapters += [_TaskChapter(section, list(facts), baseline, pictures).made() for section in found]
    return chapters + [_setup(run, alone=len(runs) == 1) for run in runs]


def _setup(run: Run, alone: bool) -> Chapter:
    facts = dict(run.results.get("setup") or {})
    if isinstance(facts.get("devices"), list):
        facts["devices"] = ", ".join(device["name"] for device in facts["devices"]) or "CPU"
    if isinstance(facts.get("memory_total"), int):
        facts["memory_total"] = units.byte_text(facts["memory_total"])
    rows = [(name, value) for name, value in facts.items() if value is not None]
    return Chapter("Setup" if alone else f"Setup: {run.label}", [Part("facts", rows=rows)])


def _overview(facts: Mapping[str, Mapping[str, Any]], found: Sequence[Section]) -> Chapter:
    chapter = Chapter("Readers")
    chapter.note(
        "Bytes carried is what one stream keeps of all it has read, whatever its length. Small print is the "
        "95% bootstrap interval over documents; after ± stands the standard deviation over runs, where "
        "there are several. The best of each column is bold."
    )
    carried = [Cell(units.carried_text(fact["bytes_carried"])) for fact in facts.values()]
    scores = [_column(section, list(facts), section.metrics[0]) for section in found]
    titles = [f"{section.title}: {_title(section.metrics[0])}" for section in found]
    chapter.table(["Reader", "Bytes carried", *titles], list(facts), [carried, *scores])
    chapter.heading("What they cost")
    costs = [
        [Cell(units.amount_text(fact["extra_parameters"])) for fact in facts.values()],
        [Cell(units.amount_text(fact["flops_per_token"])) for fact in facts.values()],
        [Cell(f"{fact['limit']:,} tokens" if fact["limit"] else "any length") for fact in facts.values()],
    ]
    header = ["Reader", "Extra parameters", "FLOPs per token", "Reads at most"]
    chapter.table(header, list(facts), costs)
    return chapter


class _TaskChapter:
    """One task: scores overall or along its first axis, maps over two axes, and differences to a baseline."""

    def __init__(self, section: Section, order: Sequence[str], baseline: str | None, pictures: Pictures):
        self.section, self.pictures = section, pictures
        self.readers = [name for name in order if name in section.readers]
        self.metrics = [m for m in section.metrics if any(_overall(section, r, m) for r in self.readers)]
        self.baseline = baseline or next((n for n in self.readers if n.startswith("window")), self.readers[0])
        self.chapter = Chapter(section.title)
        self.axis = section.axes[0].replace("_", " ") if section.axes else ""

    def made(self) -> Chapter:
        section, chapter = self.section, self.chapter
        counts = sorted({entry["n"] for entries in section.readers.values() for entry in entries})
        items = " to ".join(f"{count:,}" for count in dict.fromkeys((counts[0], counts[-1])))
        told = [f"{k} {setting_text(v)}" for k, v in section.settings.items() if v not in (None, "")]
        chapter.note(f"{items} answers per reader; {', '.join(told)}.")
        if not section.axes:
            columns = [_column(section, self.readers, metric) for metric in self.metrics]
            chapter.table(["Reader", *map(_title, self.metrics)], self.readers, columns)
        for metric in self.metrics if section.axes else ():
            self._curve(metric)
            if len(section.axes) == 2:
                self._maps(metric)
        self._positions()
        self._recall_maps()
        self._differences()
        return chapter

    def _axis_label(self) -> str:
        label, length = self.axis.capitalize(), self.section.settings.get("segment_length")
        if self.axis in ("history", "distance"):
            label += " in segments"
        return f"{label} of {length} tokens" if length and "segments" in label.lower() else label

    def _figure(self, figure: Figure, description: str, name: str) -> None:
        self.chapter.parts.append(
            self.pictures(figure, f"{self.section.title}: {description}", f"{self.section.file}-{name}")
        )

    def _curve(self, metric: Metric) -> None:
        """Scores by the first axis: a table, and the same as lines."""
        section, show = self.section, metric["show"]
        found = {name: self._by_axes(name, metric, 1) for name in self.readers}
        places = sorted({key[0] for cells in found.values() for key in cells}, key=fact_order)
        if not places:  # a result of two axes from before there were curves
            return
        columns = [_marked([found[name].get((place,)) for name in self.readers], metric) for place in places]
        columns.append(_column(section, self.readers, metric))
        self.chapter.heading(_title(metric))
        header = [self.axis.capitalize(), *map(units.fact_text, places), "all"]
        self.chapter.table(header, self.readers, columns)
        lines = {
            n: {key[0]: value.runs for key, value in cells.items()} for n, cells in found.items() if cells
        }
        # Intervals of perplexities tell how different documents are, and would hide the lines.
        errors = {
            name: {
                k[0]: (v.low, v.high) for k, v in cells.items() if v.low is not None and v.high is not None
            }
            for name, cells in (found.items() if show == "percent" else ())
        }
        chance = section.chance.get(metric["name"])
        figure = plots.axis_plot(
            lines, self._axis_label(), _title(metric) + _direction(metric),
            f"{section.name}: {_title(metric)}", show, errors,
            None if chance is None else units.shown(chance, show),
        )  # fmt: skip
        self._figure(figure, f"{_title(metric)} by {self.axis}", metric["name"])

    def _maps(self, metric: Metric) -> None:
        maps = {
            name: {(key[0], key[1]): value.mean for key, value in self._by_axes(name, metric, 2).items()}
            for name in self.readers
        }
        if maps := {name: cells for name, cells in maps.items() if cells}:
            label = _title(metric) + _direction(metric)
            figure = plots.heat_maps(maps, self.section.axes, label, metric["show"])
            by = " and ".join(self.section.axes)
            self._figure(figure, f"{_title(metric)} by {by}", f"{metric['name']}-map")

    def _extras(self, name: str, key: str) -> list[Any]:
        every = [(entry.get("extras") or {}).get(key) for entry in self.section.readers[name]]
        return [one for one in every if one]

    def _positions(self) -> None:
        """Scores within a segment, at the largest value of the axis, where the task has saved them."""
        lines, last = {}, ""
        for name in self.readers:
            if saved := self._extras(name, "by_position"):
                last = list(saved[0])[-1]
                lines[name] = _binned([run[last] for run in saved if last in run])
        lines = {name: line for name, line in lines.items() if any(value is not None for _, value in line)}
        if lines:
            title = f"{self.section.name}: within the segment, {self.axis} {last}"
            figure = plots.position_plot(lines, "Nats per token (lower is better)", title)
            self.chapter.heading("Within the segment")
            self._figure(figure, "nats per token by position in the segment", "by_position")

    def _recall_maps(self) -> None:
        """Where the memory looks, of the first run."""
        found = {name: saved[0] for name in self.readers if (saved := self._extras(name, "recall_map"))}
        if found:
            self.chapter.heading("Where it looks")
        for name, one in found.items():
            title = f"{name}: recall over {units.plural(one['segments'], 'segment')}"
            figure = plots.recall_map_plot(
                np.array(one["rows"], float), title, "Part with the answer", "Part recalled"
            )
            self._figure(figure, f"recall weight of {name} by part of the text", "recall_map")

    def _differences(self) -> None:
        """Differences to the baseline on the same items: per metric, and along the first axis."""
        section, chapter, metrics = self.section, self.chapter, self.metrics
        pairs = section.paired.get(self.baseline) or {}
        if not pairs or not metrics:
            return
        names = [name for name in self.readers if name in pairs]
        chapter.heading(f"Difference to {self.baseline}")
        chapter.note(
            f"What each reader has more (+) or less (−) than {self.baseline} on the same items, with 95% "
            "bootstrap intervals over documents, or ± the standard deviation over runs. An interval that "
            "contains 0 is no evidence of a difference."
        )
        columns = [
            [_gap([run.get(m["name"]) for run in pairs[name]], m["show"]) for name in names] for m in metrics
        ]
        chapter.table(["Reader", *map(_difference_title, metrics)], names, columns)
        for metric in metrics if section.paired_cells.get(self.baseline) else ():
            self._differences_along(names, metric)

    def _differences_along(self, names: Sequence[str], metric: Metric) -> None:
        section, show = self.section, metric["show"]
        found: dict[str, dict[Any, list[Any]]] = {name: {} for name in names}
        for name in names:
            for run in section.paired_cells[self.baseline].get(name, []):
                for cell in run:
                    gap = cell["metrics"].get(metric["name"])
                    found[name].setdefault(cell["facts"][section.axes[0]], []).append(gap)
        places = sorted({place for cells in found.values() for place in cells}, key=fact_order)
        lines: dict[str, dict[Any, list[float]]] = {name: {} for name in names}
        errors: dict[str, dict[Any, tuple[float, float]]] = {name: {} for name in names}
        for name in names:
            for place, gaps in found[name].items():
                known = [gap for gap in gaps if gap and gap["mean"] is not None]
                if known:
                    lines[name][place] = [units.difference(gap["mean"], show) for gap in known]
                if len(known) == 1 and known[0]["low"] is not None:
                    low, high = (units.difference(known[0][end], show) for end in ("low", "high"))
                    errors[name][place] = (low, high)
        if not any(lines.values()):
            return
        self.chapter.note(f"By {self.axis}: {_difference_title(metric)}.")
        columns = [[_gap(found[name].get(place, []), show) for name in names] for place in places]
        self.chapter.table([self.axis.capitalize(), *map(units.fact_text, places)], names, columns)
        if len(places) > 1:
            # the baseline is drawn too, in its place: every reader has the colour that it has elsewhere
            whole = {name: lines.get(name, dict.fromkeys(places, [0.0])) for name in section.readers}
            figure = plots.axis_plot(
                whole, self._axis_label(), _difference_title(metric) + _direction(metric),
                f"{section.name}: difference to {self.baseline}", "plain", errors,
            )  # fmt: skip
            described = f"{_title(metric)} less that of {self.baseline}, by {self.axis}"
            self._figure(figure, described, f"{metric['name']}-difference")

    def _by_axes(self, reader: str, metric: Metric, number: int) -> dict[tuple, Value]:
        """Values of the first axes -> score over runs."""
        axes = self.section.axes[:number]
        found: dict[tuple, list[Any]] = {}
        for entry in self.section.readers[reader]:
            whole = number == len(self.section.axes)
            for cell in entry["cells"] if whole else entry.get("curve") or ():
                key = tuple(cell["facts"][axis] for axis in axes)
                found.setdefault(key, []).append(cell["metrics"].get(metric["name"]))
        values = {key: value_of(estimates, metric["show"]) for key, estimates in found.items()}
        return {key: value for key, value in values.items() if value is not None}


def _binned(rows: Sequence[Sequence[float | None]]) -> list[tuple[float, float | None]]:
    """(position from 1, mean over runs), averaged over neighbours where there are many."""
    width = max(1, -(-len(rows[0]) // _POINTS))
    found: list[tuple[float, float | None]] = []
    for start in range(0, len(rows[0]), width):
        known = [value for row in rows for value in row[start : start + width] if value is not None]
        end = min(start + width, len(rows[0]))
        found.append(((start + 1 + end) / 2, sum(known) / len(known) if known else None))
    return found


def _overall(section: Section, reader: str, metric: Metric) -> Value | None:
    entries = section.readers.get(reader, [])
    return value_of([entry["metrics"].get(metric["name"]) for entry in entries], metric["show"])


def _column(section: Section, readers: Sequence[str], metric: Metric) -> list[Cell]:
    return _marked([_overall(section, name, metric) for name in readers], metric)


def _marked(values: Sequence[Value | None], metric: Metric) -> list[Cell]:
    """A column of scores as cells, the best in bold."""
    known = [value.mean for value in values if value is not None]
    choose = {"higher": max, "lower": min}.get(metric["better"])
    best = choose(known) if choose and len(known) > 1 else None
    return [
        _cell(
            value,
            lambda number: units.number_text(number, metric["show"]),
            value is not None and value.mean == best,
        )
        for value in values
    ]


def _gap(gaps: Sequence[Mapping[str, Any] | None], show: str) -> Cell:
    """A difference as a cell."""
    value = value_of([dict(gap) if gap else None for gap in gaps], "plain")
    return _cell(value, lambda number: units.difference_text(number, show))


def _cell(value: Value | None, tell: Callable[[float], str], best: bool = False) -> Cell:
    """A mean with its deviation over runs, or its interval, or nothing, as they are known."""
    if value is None:
        return Cell("–")
    text = tell(value.mean)
    if value.deviation is not None:
        return Cell(text, f"± {tell(value.deviation).lstrip('+')}", best=best)
    if value.low is None or value.high is None:
        return Cell(text, best=best)
    return Cell(text, f"{tell(value.low)} to {tell(value.high)}", below=True, best=best)


def _title(metric: Metric) -> str:
    """Such as "exact match (%)" or "distant (perplexity)"."""
    name = metric["name"].replace("_", " ")
    unit = {"percent": "%", "perplexity": "perplexity"}.get(metric["show"])
    return f"{name} ({unit})" if unit and unit != name else name


def _difference_title(metric: Metric) -> str:
    unit = units.UNITS[metric["show"]]
    name = metric["name"].replace("_", " ")
    return f"{name} ({unit})" if unit else name


def _direction(metric: Metric) -> str:
    return "" if metric["better"] == "neither" else f"; {metric['better']} is better"
