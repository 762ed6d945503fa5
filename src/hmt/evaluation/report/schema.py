"""What a results.json holds, as far as the page needs it: files are checked before one is made."""

# No `from __future__ import annotations`: pydantic resolves the names of nested types here, not as strings.

from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from typing_extensions import NotRequired, TypedDict

Fact = str | bool | int | float | None


class Estimate(TypedDict):
    """A score or a difference of scores, with its interval."""

    mean: float | None
    low: NotRequired[float | None]
    high: NotRequired[float | None]


class Cell(TypedDict):
    """Scores at one place of the axes."""

    facts: dict[str, Fact]
    metrics: dict[str, Estimate]


class RecallMap(TypedDict):
    """Where a memory looked."""

    segments: int
    rows: list[list[float | None]]


class Extras(TypedDict, total=False):
    """What a task says beside its scores."""

    by_position: dict[str, list[float | None]] | None
    recall_map: RecallMap | None


class Entry(TypedDict):
    """One reader on one task."""

    n: int
    metrics: dict[str, Estimate | None]
    cells: list[Cell]
    curve: NotRequired[list[Cell]]
    extras: NotRequired[Extras | None]


class Metric(TypedDict):
    """How a score is shown."""

    name: str
    better: Literal["higher", "lower", "neither"]
    show: Literal["percent", "perplexity", "bits", "plain"]


class Task(TypedDict):
    """One task of one run."""

    settings: dict[str, Any]
    metrics: list[Metric]
    axes: list[str]
    readers: dict[str, Entry]
    chance: NotRequired[dict[str, float] | None]
    paired: NotRequired[dict[str, dict[str, dict[str, Estimate]]] | None]
    paired_cells: NotRequired[dict[str, dict[str, list[Cell]]] | None]


class Reader(TypedDict):
    """What stands beside a reader's scores."""

    bytes_carried: int | None
    extra_parameters: float | None
    flops_per_token: float | None
    limit: int | None


class Results(TypedDict):
    """A results.json: what readers made of tasks, or other results ("runs") in folders beside it."""

    format: NotRequired[int]
    title: NotRequired[str | None]
    summary: NotRequired[str | None]
    readers: NotRequired[dict[str, Reader]]
    tasks: NotRequired[dict[str, Task]]
    setup: NotRequired[dict[str, Any] | None]
    runs: NotRequired[list[str]]


_RESULTS = TypeAdapter(Results)


def check(results: dict[str, Any], file: Path) -> None:
    """ValueError, naming the file and the place in it, for results that no page can be made of."""
    try:
        _RESULTS.validate_python(results, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{file} is damaged, or not of hmt eval: {place}: {first['msg']}") from None
    for name, task in results.get("tasks", {}).items():
        named = {*task["readers"]}
        for part in ("paired", "paired_cells"):
            for baseline, others in (task.get(part) or {}).items():
                named |= {baseline, *others}
        if unknown := sorted(named - set(results.get("readers", {}))):
            raise ValueError(f"{file} is damaged, or not of hmt eval: the task {name} names {unknown[0]!r}, "
                             "which is none of its readers")  # fmt: skip
        for entry in task["readers"].values():
            for cell in (*entry["cells"], *entry.get("curve", ())):
                if missing := [axis for axis in task["axes"][:1] if axis not in cell["facts"]]:
                    raise ValueError(
                        f"{file} is damaged, or not of hmt eval: the task {name} lacks {missing[0]!r}"
                    )
