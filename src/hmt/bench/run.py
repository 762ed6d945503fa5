"""The whole benchmark: one part after the other, saved after each."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from hmt.bench.peaks import measure_peaks
from hmt.bench.reading import measure_decoding, measure_reading
from hmt.bench.results import collect
from hmt.bench.settings import PARTS, Settings
from hmt.bench.timing import free
from hmt.bench.training import measure_training
from hmt.bench.workbench import Progress, Workbench

_MEASURE: dict[str, Callable[[Workbench, Progress], None]] = {
    "reading": measure_reading,
    "decode": measure_decoding,
    "training": measure_training,
    "memory": measure_peaks,
}


def run(
    settings: Settings,
    save: Callable[[dict[str, Any]], None] = lambda results: None,
    progress: Callable[[str, int, int], None] = lambda part, done, total: None,
) -> dict[str, Any]:
    """Measure, and return what `bench.json` holds.

    save: called with the results so far after every part, and before an error or Ctrl-C goes on.
    progress: called as progress(part, done, total).
    ValueError for settings that cannot be.
    """
    bench = Workbench.build(settings)
    for part in PARTS:
        if part not in bench.settings.parts:
            continue

        def tell(done: int, total: int, part: str = part) -> None:
            progress(part, done, total)

        try:
            _MEASURE[part](bench, tell)
            bench.finished.append(part)
        finally:
            save(collect(bench))
        for case in bench.cases.get(part, []):  # they hold caches and memories
            case.run = case.warm = _done
        free()
    return collect(bench)


def _done() -> Any:
    raise AssertionError("this case was measured")  # pragma: no cover


def to_json(results: dict[str, Any]) -> str:
    """Indented, but a list of numbers on one line."""
    text = json.dumps(results, indent=1)
    return re.sub(r"\[[\s\d.,e+-]+\]", lambda match: " ".join(match[0].split()), text) + "\n"
