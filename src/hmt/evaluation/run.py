"""Readers x tasks: predictions that an interruption does not lose, and one file of results."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hmt.evaluation.predictions import Predictions, plain, slug
from hmt.evaluation.readers.base import Reader
from hmt.evaluation.summary import cells, estimate, paired
from hmt.evaluation.tasks.base import Record, Setting, Task
from hmt.util.environment import run_facts
from hmt.util.files import check_folder, check_output, only_writer, write_atomically

# progress(task, reader, items done, items in total; 0: not known yet)
RunProgress = Callable[[str, str, int, int], None]

# fields of a config that say where a model lies or how it is run, not what it computes
_NOT_COMPUTED = re.compile(
    "name_or_path|transformers_version|implementation|use_cache|architectures|auto_map"
)
_SAMPLES = 64  # values looked at per tensor: training moves every tensor it touches


def evaluate(
    readers: Sequence[Reader],
    tasks: Sequence[Task],
    setting: Setting,
    output: Path | str,
    progress: RunProgress | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Let every reader do every task; predictions and `results.json` go to the folder `output`.

    What a former run has answered there is not answered again, but scored anew. ValueError, before anything
    is answered, if the folder holds answers to other settings or of another model.

    Returns what results.json holds:
        format: 1.
        readers: name -> bytes_carried (None: grows), extra_parameters, flops_per_token, limit (tokens).
        tasks: name -> settings, metrics, axes;
            readers: name -> n, metrics (name -> mean, low, high, weight), extras, and, where there are axes,
                cells (facts, n, metrics) and curve, the same per value of the first axis alone;
            paired: baseline -> reader -> metric -> mean, low, high of reader less baseline, and n;
            paired_cells: the same per value of the first axis: lists of facts, metrics;
            chance: metric -> score of guessing, where it is known.
        setup: command, commit, versions and hardware.
    Scores are as the tasks make them: fractions, nats (see `Metric` for how to show them).
    """
    _check_names([reader.name for reader in readers], [task.name for task in tasks])
    output = check_results(output)
    with only_writer(output / "predictions", "choose another --output"):
        return _evaluate(readers, tasks, setting, output, progress, overwrite)


def check_results(output: Path | str) -> Path:
    """The folder, in which results can be written. ValueError or OSError where they cannot, or would replace
    what is no result of this library."""
    folder = check_folder(output)
    check_output(folder / "results.json", "result of hmt eval")
    return folder


def _evaluate(
    readers: Sequence[Reader],
    tasks: Sequence[Task],
    setting: Setting,
    output: Path,
    progress: RunProgress | None,
    overwrite: bool,
) -> dict[str, Any]:
    shared = {
        "tokenizer_digest": tokenizer_digest(setting.tokenizer),
        "segment_length": setting.segment_length,
    }
    files: dict[str, dict[str, Predictions]] = {}
    models = {reader.name: identity(reader) for reader in readers}
    for task in tasks:
        for reader in readers:
            header = {"task": task.name, "settings": task_settings(task), "reader": reader.name, **shared}
            path = output / "predictions" / task.name / f"{slug(reader.name)}.jsonl"
            files.setdefault(task.name, {})[reader.name] = Predictions(
                path, {**header, "model": models[reader.name]}, overwrite=overwrite
            )
    found = {}
    for task in tasks:
        shared = task.prepare(setting)
        records = {
            reader.name: _answers(task, reader, setting, shared, files[task.name][reader.name], progress)
            for reader in readers
        }
        if not any(records.values()):  # a reader may have nothing to do: only some recall
            raise ValueError(f"the task {task.name} has no items for these readers; check its settings")
        found[task.name] = task_results(task, records)
    seeds = sorted({task.seed for task in tasks})
    facts = run_facts(seeds[0], segment_length=setting.segment_length)
    facts["seed"] = seeds[0] if len(seeds) == 1 else seeds
    results = plain(
        {
            "format": 1,
            "readers": {reader.name: reader_facts(reader, setting.segment_length) for reader in readers},
            "tasks": found,
            "setup": facts,
        }
    )
    data = (json.dumps(results, indent=1) + "\n").encode()
    write_atomically(output / "results.json", data, "result of hmt eval")
    return results


def _answers(
    task: Task,
    reader: Reader,
    setting: Setting,
    shared: Any,
    file: Predictions,
    progress: RunProgress | None,
) -> list[Record]:
    """All records of one reader, old and new."""

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress(task.name, reader.name, done, total)

    if (scored := rescored(task, file.records, file.path)) != file.records:
        file.replace(scored)
    tell(len(file.records), 0)
    with file:
        for record in task.run(reader, setting, file.done, tell, shared):
            file.append(record)
    return file.records


def rescored(task: Task, records: Sequence[Record], path: Path) -> list[Record]:
    """The records of a file, scored anew. ValueError for one that lacks what is scored."""
    found = []
    for record in records:
        try:
            found.append(plain(task.rescore(record)))
        except Exception as error:  # whatever a task makes of a record that it has not written
            raise ValueError(
                f"the record {record['id']!r} of {path} cannot be scored ({error!r}); begin anew with "
                "--overwrite"
            ) from error
    return found


def task_results(task: Task, records: dict[str, list[Record]]) -> dict[str, Any]:
    """What the results say of one task. records: of each reader."""
    names = [metric.name for metric in task.metrics]
    first = task.axes[:1]
    curves = {reader: cells(rows, first) for reader, rows in records.items()}

    def scores(rows: Sequence[Any]) -> dict[str, Any]:
        return {"n": len(rows), "metrics": {name: estimate(rows, name) for name in names}}

    def table(found: Sequence[tuple[dict[str, Any], list[Any]]]) -> list[dict[str, Any]]:
        return [{"facts": facts, **scores(some)} for facts, some in found]

    readers = {
        reader: {
            **scores(rows),
            "cells": table(cells(rows, task.axes)),
            "curve": table(curves[reader]),
            "extras": task.extras(rows),
        }
        for reader, rows in records.items()
    }
    pairs: dict[str, dict[str, Any]] = {reader: {} for reader in records}
    along: dict[str, dict[str, Any]] = {reader: {} for reader in records}
    for a, b in combinations(records, 2):
        found = {name: paired(records[a], records[b], name) for name in names}
        pairs[b][a], pairs[a][b] = found, _turned(found)
        along[b][a] = [
            {"facts": facts, "metrics": {name: paired(some, records[b], name) for name in names}}
            for facts, some in curves[a]
        ]
        along[a][b] = [{**row, "metrics": _turned(row["metrics"])} for row in along[b][a]]
    return {
        "settings": task_settings(task),
        "metrics": [asdict(metric) for metric in task.metrics],
        "axes": list(task.axes),
        "chance": task.chance(),
        "readers": readers,
        "paired": pairs,
        **({"paired_cells": along} if task.axes else {}),
    }


def _turned(found: Any) -> dict[str, dict[str, Any]]:
    """Differences a - b as b - a."""

    def minus(value: float | None) -> float | None:
        return None if value is None else -value

    return {
        name: {**gap, "mean": minus(gap["mean"]), "low": minus(gap["high"]), "high": minus(gap["low"])}
        for name, gap in found.items()
    }


def reader_facts(reader: Reader, segment_length: int) -> dict[str, Any]:
    """What stands beside a reader's scores."""
    return {
        "bytes_carried": reader.bytes_carried,
        "extra_parameters": reader.extra_parameters,
        "flops_per_token": reader.flops_per_token(_own_length(reader, segment_length)),
        "limit": reader.limit,
    }


def _own_length(reader: Reader, segment_length: int) -> int:
    """A model with memory reads segments of its own length, whatever tasks call a segment."""
    config = getattr(getattr(reader, "model", None), "config", None)
    return getattr(config, "segment_length", segment_length)


def task_settings(task: Task) -> dict[str, Any]:
    return {field.name: plain(getattr(task, field.name)) for field in fields(task)}


def identity(reader: Reader) -> dict[str, Any]:
    """What tells the answers of one model from those of another, whatever folder it lies in."""
    own = {key: value for key, value in sorted(vars(reader).items()) if not key.startswith("_")}
    modules = [value for value in own.values() if isinstance(value, nn.Module)]
    return {
        "kind": type(reader).__name__,
        "settings": {key: value for key, value in own.items() if isinstance(value, (bool, int, float, str))},
        "weights": hashlib.sha256(b"".join(_module_bytes(module) for module in modules)).hexdigest()[:16],
        "bytes_carried": reader.bytes_carried,
        "extra_parameters": reader.extra_parameters,
        "limit": reader.limit,
        "unscored_head": reader.unscored_head,
    }


@torch.no_grad()
def _module_bytes(module: nn.Module) -> bytes:
    config = getattr(module, "config", None)
    fields = config.to_diff_dict() if config is not None and hasattr(config, "to_diff_dict") else {}
    parts = [json.dumps(_computed(fields), sort_keys=True, default=str).encode()]
    for name, value in sorted(module.named_parameters()):
        flat = value.detach().flatten()
        sample = flat[:: max(1, flat.numel() // _SAMPLES)][:_SAMPLES].float().cpu().numpy()
        parts.append(f"{name}{tuple(value.shape)}{value.dtype}".encode() + sample.tobytes())
    return b"".join(parts)


def _computed(fields: Any) -> Any:
    if not isinstance(fields, dict):
        return fields
    return {str(k): _computed(v) for k, v in fields.items() if not _NOT_COMPUTED.search(str(k))}


def tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 (16 hex digits) of the vocabulary: of any two with one digest, ids mean the same tokens."""
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(vocabulary.encode()).hexdigest()[:16]


def _check_names(readers: Sequence[str], tasks: Sequence[str]) -> None:
    if not readers or not tasks:
        raise ValueError(f"there are no {'tasks' if readers else 'readers'} to evaluate")
    for what, first, second in _twice(readers, tasks):
        raise ValueError(f"{what} {first!r} and {second!r} need names that differ in letters or digits")


def _twice(readers: Sequence[str], tasks: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    for what, names in (("the readers", readers), ("the tasks", tasks)):
        taken: dict[str, str] = {}
        for name in names:
            key = slug(name).casefold()  # two names of one file, on some file systems
            if key in taken:
                yield what, taken[key], name
            taken[key] = name
