"""What the answers that are saved in a folder say, whether or not `evaluate` came to its end there."""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from hmt.evaluation.predictions import Record, plain, read_predictions
from hmt.evaluation.run import rescored, task_results
from hmt.evaluation.tasks import make_task, task_class
from hmt.evaluation.tasks.base import Task

_FACTS = ("bytes_carried", "extra_parameters", "limit")


def saved_results(folder: Path, told: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
    """Results as `evaluate` returns them, one for each setting that there are answers to; empty without any.

    told: the results that stand in the folder; none are made where these tell of as many answers. What
    only they know (FLOPs, the setup) is taken from them.

    ValueError, naming the file, for answers that cannot be read or scored.
    """
    files = sorted((folder / "predictions").glob("*/*.jsonl"))
    number = sum(max(0, path.read_bytes().count(b"\n") - 1) for path in files)  # without the first line
    known = dict(told or {})
    if number <= _answers(known):
        return []
    groups: dict[str, dict[str, dict[str, list[Record]]]] = {}  # shared header -> task -> reader
    headers: dict[str, dict[str, Any]] = {}  # of readers
    for path in files:
        header, records, _ = read_predictions(path)
        if not records:
            continue
        try:
            task, reader, settings = header["task"], header["reader"], header["settings"]
            made = _made(task, settings)
        except (KeyError, TypeError) as error:
            raise ValueError(f"the first line of {path} does not say what was answered ({error!r})") from None
        key = json.dumps([header.get("segment_length"), header.get("tokenizer_digest")])
        place = groups.setdefault(key, {}).setdefault(json.dumps([task, settings], sort_keys=True), {})
        place[reader] = rescored(made, records, path)
        headers[reader] = header.get("model") or {}
    found: list[dict[str, Any]] = []
    for key, places in groups.items():
        length = json.loads(key)[0]
        for what, records_of in places.items():
            name, settings = json.loads(what)
            fitting = (r for r in found if r["setup"]["segment_length"] == length and name not in r["tasks"])
            results = next(fitting, None)
            if results is None:
                results = {"format": 1, "readers": {}, "tasks": {}, "setup": {**known.get("setup", {})}}
                results["setup"]["segment_length"] = length
                results["summary"] = (
                    f"Made of the {number:,} answers that are saved in the folder; its results.json tells of "
                    "fewer, or is not there yet, because hmt eval has not come to its end."
                )
                found.append(results)
            results["tasks"][name] = plain(task_results(_made(name, settings), records_of))
            for reader in records_of:
                own = {fact: headers[reader].get(fact) for fact in _FACTS}
                flops = known.get("readers", {}).get(reader, {}).get("flops_per_token")
                results["readers"][reader] = {**own, "flops_per_token": flops}
    return found


def _made(name: str, settings: Mapping[str, Any]) -> Task:
    """The task of settings that were JSON. ValueError for what is none."""
    from pydantic import TypeAdapter, ValidationError

    kinds = typing.get_type_hints(task_class(name))
    known = {field.name for field in fields(task_class(name))}
    try:
        values = {
            key: TypeAdapter(kinds[key]).validate_python(value) if key in known else value
            for key, value in settings.items()
        }
    except ValidationError as error:
        raise ValueError(f"settings of the task {name}: {error.errors()[0]['msg']}") from None
    return make_task(name, **values)


def _answers(results: Mapping[str, Any]) -> int:
    tasks = results.get("tasks") or {}
    return sum(entry["n"] for task in tasks.values() for entry in task["readers"].values())
