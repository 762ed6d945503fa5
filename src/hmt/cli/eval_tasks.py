"""`hmt eval --tasks`: opens models, makes the rows, runs the tasks, shows the table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from hmt.cli.read import open_model
from hmt.cli.task_options import chosen_tasks
from hmt.util.progress import Bars, library_bars
from hmt.util.signals import Stopped


def evaluate_tasks(
    models: Sequence[str],
    names: Sequence[str],
    pairs: Sequence[str],
    defaults: dict[str, Any],
    output: Path,
    *,
    budgets: str,
    baselines: str,
    backbone: str | None,
    context: int | None,
    segment_length: int | None,
    device: str | None,
    overwrite: bool,
) -> None:
    """Every reader does every task; see `chosen_tasks` for names, pairs and defaults."""
    tasks = chosen_tasks(names, pairs, defaults)
    sizes, rows = _budgets(budgets), _baselines(baselines)
    folders = named_models(models)
    with Bars() as bars, library_bars():
        bars("opening the models", 0)
        readers, setting = open_readers(
            folders, sizes, rows, backbone, context, device, segment_length, tasks
        )
        from hmt.evaluation.run import evaluate

        def progress(task: str, reader: str, done: int, total: int) -> None:
            bars(f"{task}, {reader}", done, total)

        try:
            results = evaluate(readers, tasks, setting, output, progress, overwrite)
        except KeyboardInterrupt as stop:
            raise Stopped(
                getattr(stop, "signal", 2),
                f"interrupted: the answers so far are in {output}; the same command goes on from there, and "
                f"hmt report {output} shows them",
            ) from None
    show(results)
    typer.echo(f"{output}: results.json, predictions; a page of it: hmt report {output} --output report.html")


def named_models(models: Sequence[str]) -> dict[str, str]:
    """Name of the row -> folder or hub id, of "PATH" or "NAME=PATH". ValueError for one named twice."""
    found: dict[str, str] = {}
    for text in models:
        name, equals, path = text.partition("=")
        if not equals or Path(text).exists():
            name, path = unique_name(text, found), text
        if name in found or path in found.values():
            raise ValueError(f"{path if path in found.values() else name} is named twice")
        found[name] = path
    return found


def open_models(paths: Sequence[str], device: str | None) -> tuple[dict[str, Any], Any, Any]:
    """name -> model, their tokenizer and device. ValueError when their tokenizers differ."""
    if repeated := [path for path in paths if paths.count(path) > 1]:
        raise ValueError(f"{repeated[0]} is named twice")
    systems: dict[str, Any] = {}
    first: Any = None
    for path in paths:
        model, tokenizer = open_model(path, device)
        first = first or tokenizer
        if tokenizer.get_vocab() != first.get_vocab():
            raise ValueError(
                f"{path} and {paths[0]} have different tokenizers, so their perplexities per token cannot be "
                "compared; evaluate models that read the same token ids"
            )
        systems[unique_name(path, systems)] = model
    return systems, first, model.device


def unique_name(path: str, taken: dict[str, Any]) -> str:
    """The last part of a path, or more of it where that name is taken."""
    parts = Path(path).parts
    for number in range(1, len(parts) + 1):
        name = "/".join(parts[-number:])
        if name not in taken:
            return name
    return path


def open_readers(
    folders: dict[str, str],
    budgets: Sequence[int],
    baselines: Sequence[str],
    backbone: str | None,
    context: int | None,
    device: str | None,
    segment_length: int | None,
    tasks: Sequence[Any],
) -> tuple[list[Any], Any]:
    """The readers, baselines last, and what they share.

    ValueError where tokenizers differ, or segment lengths in a way that makes a comparison meaningless.
    """
    from hmt.evaluation.readers.budget import rows_at
    from hmt.evaluation.tasks.base import Setting

    opened, tokenizer, place = open_models(list(folders.values()), device)
    models = dict(zip(folders, opened.values(), strict=True))
    length = common_length(
        {name: m.config.segment_length for name, m in models.items()}, segment_length, tasks
    )
    plain = None if backbone is None else _open_backbone(backbone, place)
    rows: list[Any] = []
    others: list[Any] = []
    for name, model in models.items():
        rows += rows_at(model, budgets, tokenizer, (), limit=context, name=name)
    if baselines:
        first = next(iter(models.values()))
        named = rows_at(
            first, budgets, tokenizer, baselines, backbone=plain, limit=context, name=next(iter(models))
        )
        own = {row.name for row in rows}
        others = [row for row in named if row.name not in own]
    return rows + others, Setting(tokenizer=tokenizer, segment_length=length)


def common_length(lengths: dict[str, int], wanted: int | None, tasks: Sequence[Any]) -> int:
    """The length of a segment, in tokens, for all tasks."""
    from hmt.evaluation.tasks.base import AnswerTask

    told = ", ".join(f"{name}: {length}" for name, length in lengths.items())
    length = wanted or next(iter(lengths.values()))
    if wanted is None and len(set(lengths.values())) > 1:
        raise ValueError(
            f"segment lengths differ ({told}); say with --segment-length which one the tasks count in"
        )
    # these score whole segments, which a model must read as its own
    whole = [task.name for task in tasks if not isinstance(task, AnswerTask)]
    if whole and any(own != length for own in lengths.values()):
        raise ValueError(
            f"{whole[0]} scores segments of {length} tokens, and models read others ({told}); evaluate "
            "models of one segment length, or leave the task out"
        )
    return length


def _budgets(text: str) -> list[int]:
    from hmt.evaluation.readers.budget import parse_bytes

    return [parse_bytes(part) for part in text.split(",") if part.strip()]


def _baselines(text: str) -> list[str]:
    from hmt.evaluation.readers.budget import BASELINES

    chosen = [part.strip() for part in text.split(",") if part.strip() and part.strip() != "none"]
    for name in chosen:
        if name not in BASELINES:
            raise ValueError(f"there is no baseline {name!r}; choose from {', '.join(BASELINES)}, or none")
    return chosen


def _open_backbone(path: str, device: Any) -> Any:
    """A plain causal LM. ValueError when there is none, or it has a memory."""
    from hmt.backbone import load_backbone
    from hmt.systems import load_config, of_type

    if of_type(load_config(path).model_type):
        raise ValueError(f"--backbone {path} is a model with memory; name the backbone beneath it")
    with library_bars():
        return load_backbone(path).eval().to(device)


def show(results: dict[str, Any]) -> None:
    """A row per reader: what it costs, and the headline of each task with half its interval."""
    from hmt.util.format import amount_text, carried_text, half_width, number_text, score_text
    from hmt.util.tables import print_table

    header = ["reader", "bytes", "extra parameters", "FLOPs/token"]
    header += [f"{name}: {task['metrics'][0]['name']}" for name, task in results["tasks"].items()]
    rows = []
    for reader, facts in results["readers"].items():
        row = [
            reader,
            carried_text(facts["bytes_carried"]),
            amount_text(facts["extra_parameters"]),
            amount_text(facts["flops_per_token"]),
        ]
        for task in results["tasks"].values():
            metric = task["metrics"][0]
            found = task["readers"][reader]["metrics"][metric["name"]]
            half = half_width(found, metric["show"])
            around = "" if half is None else f" ± {number_text(half, metric['show'])}"
            row.append(score_text(found["mean"], metric["show"]) + around)
        rows.append(row)
    print_table("Scores, ± half of the 95% interval over documents", header, rows)
    for name, task in results["tasks"].items():
        if task["axes"]:
            _show_axis(name, task)


def _show_axis(name: str, task: dict[str, Any]) -> None:
    """The headline of a task at each value of its first axis."""
    from hmt.util.format import fact_text, score_text
    from hmt.util.tables import print_table

    axis, metric = task["axes"][0], task["metrics"][0]
    places = list(dict.fromkeys(cell["facts"][axis] for r in task["readers"].values() for cell in r["curve"]))
    rows = []
    for reader, found in task["readers"].items():
        cells = {cell["facts"][axis]: cell["metrics"][metric["name"]]["mean"] for cell in found["curve"]}
        rows.append([reader, *(score_text(cells.get(place), metric["show"]) for place in places)])
    print_table(f"{name}: {metric['name']} by {axis}", ["reader", *map(fact_text, places)], rows)
