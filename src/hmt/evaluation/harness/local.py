"""Tasks of the harness on local files: the same prompts and scores, nothing from the network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hmt.util.files import write_atomically

_SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")
_TEMPLATES = ("doc_to_text", "doc_to_target", "doc_to_choice")
_READERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
_COMPRESSED = (".xz", ".gz", ".bz2", ".zst")


def parse_pairs(option: str, texts: Sequence[str]) -> dict[str, str]:
    """["a=b"] as {"a": "b"}. ValueError, naming the option, for anything else and for a name given twice."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value) or name in found:
            raise ValueError(f"{option} takes NAME=VALUE, each name once; got {text!r}")
        found[name] = value
    return found


def write_local_tasks(
    data: Mapping[str, str | Path],
    folder: Path,
    rename: Mapping[str, str] | None = None,
    manager: Any = None,
) -> list[str]:
    """YAML in `folder` by which tasks of the harness read local files, under their own names; those names.

    `TaskManager(include_path=folder)`, or `--include_path`, then puts them in the place of the harness's.

    Args:
        data: task, or a pattern such as "longbench_*" -> a file (.jsonl, .json, .parquet, also compressed),
            or a folder with one that is called like the task's config on the hub (`qmsum` of
            `longbench_qmsum`), like the task or like the split. Of a pattern, tasks without a file are left
            out.
        rename: field of the task -> column of the files, where they differ.
        manager: the `TaskManager` that knows the tasks; None: one of all tasks, which takes a while to make.
    ValueError for a task that is not there, is a group, or is a program that fetches its own data (SCROLLS),
    and for files that are not there. Rows that lack a field of the prompt are refused when they are loaded.
    """
    from lm_eval.tasks import TaskManager

    manager, names = manager or TaskManager(), list[str]()
    for pattern, place in data.items():
        found = manager.match_tasks([pattern])
        tasks = [name for name in found if name in manager.all_subtasks]
        if not tasks:
            what = (
                "is a group; name its tasks" if found else "is no task of the harness; see: lm_eval ls tasks"
            )
            raise ValueError(f"{pattern} {what}")
        written = 0
        for name in tasks:
            entry = manager.task_index[name]
            if files := _files(name, entry.cfg or {}, Path(place).expanduser()):
                _write(name, entry, files, folder, dict(rename or {}))
                names.append(name)
                written += 1
        if not written:
            raise ValueError(
                f"{place} is not there, or has no .jsonl, .json or .parquet file for {', '.join(tasks)}: it "
                "is looked for by the name of the task, of its config on the hub, or of its split"
            )
    return names


def _files(name: str, config: Mapping[str, Any], place: Path) -> dict[str, str]:
    """Split -> file of a task; empty where there is none."""
    if "class" in config:
        raise ValueError(
            f"{name} is a program that fetches its own data, and cannot read local files; LongBench's tasks "
            "(longbench_*) can"
        )
    splits = dict.fromkeys(config[key] for key in _SPLITS if config.get(key))
    if place.is_file():
        return {split: str(place.resolve()) for split in splits if _kind(place)}
    there = sorted(place.iterdir()) if place.is_dir() else []
    named = {path.name.split(".")[0]: str(path.resolve()) for path in there if _kind(path)}
    found = {}
    for split in splits:
        called = [one for one in (config.get("dataset_name"), name, split) if one in named]
        if called:
            found[split] = named[called[0]]
    return found


def _kind(path: Path) -> str | None:
    suffixes = [suffix for suffix in path.suffixes if suffix not in _COMPRESSED]
    return _READERS.get(suffixes[-1]) if suffixes else None


def _write(name: str, entry: Any, files: dict[str, str], folder: Path, rename: dict[str, str]) -> None:
    from jinja2 import Environment, meta

    config, parser = entry.cfg or {}, Environment()
    texts = [config[key] for key in _TEMPLATES if isinstance(config.get(key), str)]
    fields = sorted({field for text in texts for field in meta.find_undeclared_variables(parser.parse(text))})
    arguments = {"files": files, "rename": rename, "fields": fields}
    lines = [
        f"include: {json.dumps(str(entry.yaml_path))}",
        f"task: {json.dumps(name)}",
        "custom_dataset: !function hmt.evaluation.harness.local.load_files",
        f"dataset_kwargs: {json.dumps(arguments)}",  # JSON is YAML
    ]
    data = ("\n".join(lines) + "\n").encode()
    write_atomically(folder / f"{name}.yaml", data, "task of the harness")


def load_files(
    files: Mapping[str, str], rename: Mapping[str, str], fields: Sequence[str], **metadata: Any
) -> dict[str, Any]:
    """Split -> data set; called by the harness. ValueError for rows that lack a field of the prompt."""
    import datasets

    loaded: dict[str, Any] = {}
    for split, path in files.items():
        kind = _kind(Path(path))
        rows = datasets.load_dataset(kind, data_files=path, split="train")
        columns = {column: field for field, column in rename.items() if column in rows.column_names}
        rows = rows.rename_columns(columns)
        if missing := [field for field in fields if field not in rows.column_names]:
            raise ValueError(
                f"the rows of {path} lack {', '.join(missing)}, which the prompt is made from; they have "
                f"{', '.join(rows.column_names)}. Where only the name differs: --rename {missing[0]}=COLUMN"
            )
        loaded[split] = rows
    return loaded
