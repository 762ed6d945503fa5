"""Several results as one: tasks of equal settings together, readers of one name as runs of one system."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hmt.evaluation.report.schema import check
from hmt.evaluation.saved import saved_results
from hmt.util.format import shown

# settings in which runs of one system may differ
_FREE = ("seed", "batch_size")


@dataclass(frozen=True)
class Run:
    """One results.json. label: what to call it. results: what it holds."""

    label: str
    results: dict[str, Any]

    @property
    def tasks(self) -> dict[str, Any]:
        return self.results.get("tasks") or {}


def load_runs(path, label: str | None = None) -> list[Run]:
    """The runs in a results.json of `hmt eval`, or in the folder that holds one, or answers so far, or
    folders with them.

    A results.json may name others instead of holding results ("runs": folders beside it, with a "title" and a
    "summary" for the page), as that of `hmt demo --train` does. ValueError for anything else.
    """
    path = Path(path)
    file = path / "results.json" if path.is_dir() else path
    results = _read(file) if file.is_file() else None
    saved = saved_results(file.parent, results) if (file.parent / "predictions").is_dir() else []
    if saved:
        return [Run(label or str(path), found) for found in saved]
    if results is None and path.is_dir():  # a demo, or several runs, on the way
        within = [one.name for one in sorted(path.iterdir()) if _holds_answers(one)]
        if within:
            return [run for name in within for run in load_runs(path / name, name)]
    if results is None:
        raise ValueError(
            f"{path} is not there, or a folder without results.json and answers; name what hmt eval wrote"
        )
    inner = [run for name in results.get("runs", ()) for run in load_runs(file.parent / name, name)]
    return [Run(label or str(path), results), *inner]


def _holds_answers(folder: Path) -> bool:
    return (folder / "results.json").is_file() or any(folder.glob("predictions/*/*.jsonl"))


def _read(file: Path) -> dict[str, Any]:
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON file ({error}); name a results.json of hmt eval") from None
    if not isinstance(results, dict) or not ({"tasks", "runs"} & set(results)):
        raise ValueError(f"{file} holds no results of hmt eval")
    if results.get("format", 1) != 1:
        raise ValueError(
            f"{file} has format {results['format']}, which this version of hmt cannot read; update hmt"
        )
    check(results, file)
    return results


@dataclass
class Section:
    """One task with one set of settings, of all runs.

    readers: name -> one entry per run (as in results.json). paired, paired_cells: baseline -> reader -> one
    entry per run. differs: settings in which it differs from other sections of the same task.
    """

    name: str
    settings: dict[str, Any]
    metrics: list[dict[str, str]]
    axes: list[str]
    chance: dict[str, float] = field(default_factory=dict)
    readers: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    paired: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    paired_cells: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    differs: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Its name, with the settings in which it differs from other sections of that task."""
        told = ", ".join(f"{key} {setting_text(self.settings.get(key))}" for key in self.differs)
        return f"{self.name} ({told})" if told else self.name

    @property
    def file(self) -> str:
        told = [f"{key}-{setting_text(self.settings.get(key))}" for key in self.differs]
        kept = "-".join([self.name, *told])
        return "".join(c if c.isalnum() or c in "-_." else "-" for c in kept)[:80]


@dataclass(frozen=True)
class Value:
    """A score over runs: mean, with the interval of the one run, or the standard deviation over several.

    All in the unit that is shown. low, high, deviation: None where they are not known.
    """

    mean: float
    low: float | None
    high: float | None
    deviation: float | None
    runs: tuple[float, ...]


def value_of(estimates: Iterable[dict[str, Any] | None], show: str) -> Value | None:
    """None where no run has a score."""
    known = [found for found in estimates if found and found.get("mean") is not None]
    if not known:
        return None
    runs = tuple(shown(found["mean"], show) for found in known)
    if len(runs) > 1:
        return Value(statistics.fmean(runs), None, None, statistics.stdev(runs), runs)
    low, high = (known[0].get(key) for key in ("low", "high"))
    if low is None or high is None:
        return Value(runs[0], None, None, None, runs)
    return Value(runs[0], shown(low, show), shown(high, show), None, runs)


def merge(runs: Sequence[Run]) -> tuple[dict[str, dict[str, Any]], list[Section]]:
    """Facts per reader, and sections.

    Readers of one name that carry other numbers of bytes, or have other sizes, are not one system: the label
    of the run is added to their names.
    """
    facts: dict[str, dict[str, Any]] = {}
    sections: dict[str, Section] = {}
    for run in runs:
        names = {}
        for name, found in run.results["readers"].items():
            unlike = name in facts and facts[name] != found
            names[name] = f"{name} ({run.label})" if unlike else name
            facts.setdefault(names[name], found)
        for task, found in run.tasks.items():
            length = (run.results.get("setup") or {}).get("segment_length")
            settings = {**found["settings"], **({} if length is None else {"segment_length": length})}
            fixed = {key: value for key, value in settings.items() if key not in _FREE}
            key = json.dumps([task, fixed], sort_keys=True)
            chance = found.get("chance") or {}
            section = sections.setdefault(
                key, Section(task, settings, found["metrics"], found["axes"], chance)
            )
            _add(section, found, names)
    for section in sections.values():
        others = [other for other in sections.values() if other.name == section.name]
        section.differs = [
            key
            for key in section.settings
            if key not in _FREE and any(o.settings.get(key) != section.settings[key] for o in others)
        ]
    return facts, list(sections.values())


def _add(section: Section, found: dict[str, Any], names: dict[str, str]) -> None:
    for reader, entry in found["readers"].items():
        section.readers.setdefault(names[reader], []).append(entry)
    for part, kept in (("paired", section.paired), ("paired_cells", section.paired_cells)):
        for baseline, readers in (found.get(part) or {}).items():
            for reader, entry in readers.items():
                kept.setdefault(names[baseline], {}).setdefault(names[reader], []).append(entry)


def setting_text(value: Any) -> str:
    """A setting as it is typed: lists with commas."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
