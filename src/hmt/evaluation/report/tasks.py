"""Sections on tasks: who was compared, and per task scores, curves, heat maps and differences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hmt.evaluation import shown, task_plots
from hmt.evaluation.report.html import Pictures, escape, paragraph, plain_cells, setup_table, table
from hmt.evaluation.report.merge import Run, Section, Value, merge, setting_text, value_of
from hmt.evaluation.summary import fact_order
from hmt.evaluation.units import byte_text

_POINTS = 64  # of a curve over the tokens of a segment
Cell = tuple[str, bool]
Metric = Mapping[str, str]


def sections(runs: Sequence[Run], baseline: str | None, pictures: Pictures) -> list[str]:
    """The table of readers, then a section per task. ValueError for a baseline that is no reader."""
    if not runs:
        return []
    facts, found = merge(runs)
    if baseline is not None and baseline not in facts:
        raise ValueError(f"there is no reader {baseline!r} to compare with; choose from {', '.join(facts)}")
    parts = _overview(facts, found)
    for section in found:
        parts += _task(section, list(facts), baseline, pictures)
    return parts


def setups(runs: Sequence[Run]) -> list[str]:
    parts = ["<h2>Setup</h2>"] if runs else []
    for run in runs:
        facts = dict(run.results.get("setup") or {})
        if isinstance(facts.get("devices"), list):
            facts["devices"] = ", ".join(device["name"] for device in facts["devices"]) or "CPU"
        if isinstance(facts.get("memory_total"), int):
            facts["memory_total"] = byte_text(facts["memory_total"])
        parts += [f"<h3>{escape(run.label)}</h3>", setup_table(facts)]
    return parts


def _overview(facts: Mapping[str, Mapping[str, Any]], found: Sequence[Section]) -> list[str]:
    header = ["Reader", "Bytes carried", "Extra parameters", "FLOPs per token", "Reads at most"]
    columns = [_column(section, list(facts), section.metrics[0]) for section in found]
    header += [f"{section.title}: {_title(section.metrics[0])}" for section in found]
    rows: list[list[Cell]] = []
    for number, (name, fact) in enumerate(facts.items()):
        limit = f"{fact['limit']:,} tokens" if fact["limit"] else "any length"
        texts = [
            escape(name), shown.carried_text(fact["bytes_carried"]),
            shown.amount_text(fact["extra_parameters"]), shown.amount_text(fact["flops_per_token"]), limit,
        ]  # fmt: skip
        rows.append([*((text, False) for text in texts), *(column[number] for column in columns)])
    note = (
        "Bytes carried is what one stream keeps of all it has read, whatever its length. Small print is the "
        "95% bootstrap interval over documents; after ± stands the standard deviation over runs, where "
        "there are several. The best of each column is bold."
    )
    return ["<h2>Readers</h2>", paragraph(note), table(header, rows)]


def _task(section: Section, order: list[str], baseline: str | None, pictures: Pictures) -> list[str]:
    readers = [name for name in order if name in section.readers]
    counts = sorted({entry["n"] for entries in section.readers.values() for entry in entries})
    items = " to ".join(f"{count:,}" for count in dict.fromkeys((counts[0], counts[-1])))
    told = [
        f"{key} {setting_text(value)}" for key, value in section.settings.items() if value not in (None, "")
    ]
    parts = [
        f"<h2>{escape(section.title)}</h2>",
        paragraph(f"{items} answers per reader; {', '.join(told)}."),
    ]
    metrics = [metric for metric in section.metrics if any(_overall(section, r, metric) for r in readers)]
    if len(section.axes) != 1:
        parts += _overall_table(section, readers, metrics)
    for metric in metrics:
        if len(section.axes) == 1:
            parts += _curve(section, readers, metric, pictures)
        elif len(section.axes) == 2:
            parts += _maps(section, readers, metric, pictures)
    parts += _positions(section, readers, pictures)
    return parts + _differences(section, readers, metrics, baseline, pictures)


def _overall_table(section: Section, readers: Sequence[str], metrics: Sequence[Metric]) -> list[str]:
    columns = [_column(section, readers, metric) for metric in metrics]
    rows = [[(escape(name), False), *(column[i] for column in columns)] for i, name in enumerate(readers)]
    return [table(["Reader", *map(_title, metrics)], rows)]


def _curve(section: Section, readers: Sequence[str], metric: Metric, pictures: Pictures) -> list[str]:
    """Scores by the one axis: a table, and the same as lines."""
    axis, show = section.axes[0], metric["show"]
    found = {name: _by_cell(section, name, metric) for name in readers}
    places = sorted({key[0] for cells in found.values() for key in cells}, key=fact_order)
    columns = [_marked([found[name].get((place,)) for name in readers], metric) for place in places]
    columns.append(_column(section, readers, metric))
    rows = [[(escape(name), False), *(column[i] for column in columns)] for i, name in enumerate(readers)]
    label = axis.replace("_", " ").capitalize()
    lines = {
        name: {key[0]: value.runs for key, value in cells.items()} for name, cells in found.items() if cells
    }
    errors = {
        name: {
            key[0]: (v.low, v.high) for key, v in cells.items() if v.low is not None and v.high is not None
        }
        # Of perplexities they say how different documents are, and would hide the lines: differences tell.
        for name, cells in (found.items() if show == "percent" else ())
    }
    figure = task_plots.axis_plot(
        lines, axis, _axis_label(metric), f"{section.name}: {_title(metric)}", show, errors
    )
    described = f"{section.title}: {_title(metric)} by {axis}"
    return [
        f"<h3>{escape(_title(metric))}</h3>",
        table([label, *map(shown.fact_text, places), "all"], rows),
        pictures(figure, described, f"{section.file}-{metric['name']}"),
    ]


def _maps(section: Section, readers: Sequence[str], metric: Metric, pictures: Pictures) -> list[str]:
    maps = {
        name: {(key[0], key[1]): value.mean for key, value in _by_cell(section, name, metric).items()}
        for name in readers
    }
    maps = {name: cells for name, cells in maps.items() if cells}
    if not maps:
        return []
    figure = task_plots.heat_maps(maps, section.axes, _axis_label(metric), metric["show"])
    described = f"{section.title}: {_title(metric)} by {section.axes[0]} and {section.axes[1]}"
    return [
        f"<h3>{escape(_title(metric))} by {escape(' and '.join(section.axes))}</h3>",
        pictures(figure, described, f"{section.file}-{metric['name']}"),
    ]


def _positions(section: Section, readers: Sequence[str], pictures: Pictures) -> list[str]:
    """Scores within a segment, at the largest value of the axis, where the task has saved them."""
    lines, places = {}, []
    for name in readers:
        every = [(entry.get("extras") or {}).get("by_position") for entry in section.readers[name]]
        saved = [run for run in every if run]
        if saved:
            places = list(saved[0])
            rows = [run[places[-1]] for run in saved if places[-1] in run]
            lines[name] = _binned(rows)
    lines = {name: line for name, line in lines.items() if any(value is not None for _, value in line)}
    if not lines:
        return []
    axis = section.axes[0] if section.axes else "read"
    title = f"{section.name}: within the segment, {axis} {places[-1]}"
    figure = task_plots.position_plot(lines, "Nats per token (lower is better)", title)
    described = f"{section.title}: nats per token by position in the segment"
    return ["<h3>Within the segment</h3>", pictures(figure, described, f"{section.file}-by_position")]


def _binned(rows: Sequence[Sequence[float | None]]) -> list[tuple[float, float | None]]:
    """(position from 1, mean over runs), averaged over neighbours where there are many."""
    width = max(1, -(-len(rows[0]) // _POINTS))
    found: list[tuple[float, float | None]] = []
    for start in range(0, len(rows[0]), width):
        known = [value for row in rows for value in row[start : start + width] if value is not None]
        end = min(start + width, len(rows[0]))
        found.append(((start + 1 + end) / 2, sum(known) / len(known) if known else None))
    return found


def _differences(
    section: Section,
    readers: Sequence[str],
    metrics: Sequence[Metric],
    baseline: str | None,
    pictures: Pictures,
) -> list[str]:
    """Differences to the baseline on the same items: per metric, and along the one axis."""
    chosen = baseline or next((name for name in readers if name.startswith("window")), readers[0])
    pairs = section.paired.get(chosen) or {}
    if not pairs or not metrics:
        return []
    names = [name for name in readers if name in pairs]
    header = ["Reader", *map(_difference_title, metrics)]
    rows = [
        [escape(name), *(_gap([run.get(m["name"]) for run in pairs[name]], m["show"]) for m in metrics)]
        for name in names
    ]
    note = (
        f"What each reader has more (+) or less (−) than {chosen} on the same items, with 95% bootstrap "
        "intervals over documents, or ± the standard deviation over runs. An interval that contains 0 is no "
        "evidence of a difference."
    )
    parts = [f"<h3>Difference to {escape(chosen)}</h3>", paragraph(note), table(header, plain_cells(rows))]
    for metric in metrics if section.paired_cells.get(chosen) else ():
        parts += _differences_by_cell(section, chosen, names, metric, pictures)
    return parts


def _differences_by_cell(
    section: Section, baseline: str, names: Sequence[str], metric: Metric, pictures: Pictures
) -> list[str]:
    axis, show = section.axes[0], metric["show"]
    found: dict[str, dict[Any, list[Any]]] = {name: {} for name in names}
    for name in names:
        for run in section.paired_cells[baseline].get(name, []):
            for cell in run:
                gaps = found[name].setdefault(cell["facts"][axis], [])
                gaps.append(cell["metrics"].get(metric["name"]))
    places = sorted({place for cells in found.values() for place in cells}, key=fact_order)
    rows = [[escape(name), *(_gap(found[name].get(p, []), show) for p in places)] for name in names]
    header = [axis.replace("_", " ").capitalize(), *map(shown.fact_text, places)]
    lines: dict[str, dict[Any, list[float]]] = {name: {} for name in names}
    errors: dict[str, dict[Any, tuple[float, float]]] = {name: {} for name in names}
    for name in names:
        for place, gaps in found[name].items():
            known = [gap for gap in gaps if gap and gap["mean"] is not None]
            if known:
                lines[name][place] = [shown.difference(gap["mean"], show) for gap in known]
            if len(known) == 1 and known[0]["low"] is not None:
                low, high = (shown.difference(known[0][end], show) for end in ("low", "high"))
                errors[name][place] = (low, high)
    parts = [
        paragraph(f"By {axis.replace('_', ' ')}: {_difference_title(metric)}."),
        table(header, plain_cells(rows)),
    ]
    if len(places) > 1 and any(lines.values()):
        # the baseline is drawn too, in its place: every reader has the colour that it has elsewhere
        whole = {name: lines.get(name, dict.fromkeys(places, [0.0])) for name in section.readers}
        figure = task_plots.axis_plot(
            whole, axis, _difference_title(metric) + _direction(metric),
            f"{section.name}: difference to {baseline}", "plain", errors,
        )  # fmt: skip
        described = f"{section.title}: {_title(metric)} less that of {baseline}, by {axis}"
        parts.append(pictures(figure, described, f"{section.file}-{metric['name']}-difference"))
    return parts


def _gap(gaps: Sequence[Mapping[str, Any] | None], show: str) -> str:
    """A difference as a cell."""
    value = value_of([dict(gap) if gap else None for gap in gaps], "plain")
    if value is None:
        return "–"
    return _with_spread(value, lambda number: shown.difference_text(number, show))


def _overall(section: Section, reader: str, metric: Metric) -> Value | None:
    entries = section.readers.get(reader, [])
    return value_of([entry["metrics"].get(metric["name"]) for entry in entries], metric["show"])


def _column(section: Section, readers: Sequence[str], metric: Metric) -> list[Cell]:
    return _marked([_overall(section, name, metric) for name in readers], metric)


def _by_cell(section: Section, reader: str, metric: Metric) -> dict[tuple, Value]:
    """Values of the axes -> score over runs."""
    found: dict[tuple, list[Any]] = {}
    for entry in section.readers[reader]:
        for cell in entry["cells"]:
            key = tuple(cell["facts"][axis] for axis in section.axes)
            found.setdefault(key, []).append(cell["metrics"].get(metric["name"]))
    values = {key: value_of(estimates, metric["show"]) for key, estimates in found.items()}
    return {key: value for key, value in values.items() if value is not None}


def _marked(values: Sequence[Value | None], metric: Metric) -> list[Cell]:
    """A column of scores as cells, the best in bold."""
    known = [value.mean for value in values if value is not None]
    best = {"higher": max, "lower": min}.get(metric["better"], _none)(known, default=None)
    return [
        (_score(value, metric["show"]), value is not None and len(known) > 1 and value.mean == best)
        for value in values
    ]


def _score(value: Value | None, show: str) -> str:
    if value is None:
        return "–"
    return _with_spread(value, lambda number: shown.number_text(number, show))


def _with_spread(value: Value, tell: Callable[[float], str]) -> str:
    """A mean with its deviation over runs, or its interval, or nothing, as they are known."""
    text = tell(value.mean)
    if value.deviation is not None:
        return f"{text} <small>± {tell(value.deviation).lstrip('+')}</small>"
    if value.low is None or value.high is None:
        return text
    return f"{text}<br><small>{tell(value.low)} to {tell(value.high)}</small>"


def _title(metric: Metric) -> str:
    """Such as "exact match (%)" or "distant (perplexity)"."""
    name = metric["name"].replace("_", " ")
    unit = {"percent": "%", "perplexity": "perplexity"}.get(metric["show"])
    return f"{name} ({unit})" if unit and unit != name else name


def _axis_label(metric: Metric) -> str:
    return _title(metric) + _direction(metric)


def _direction(metric: Metric) -> str:
    return "" if metric["better"] == "neither" else f"; {metric['better']} is better"


def _none(values: Sequence[float], default: None) -> None:
    return default


def _difference_title(metric: Metric) -> str:
    unit = shown.UNITS[metric["show"]]
    name = metric["name"].replace("_", " ")
    return f"{name} ({unit})" if unit else name
