"""The folders of a run: its checkpoints, its record and its final model.

run/run.json                          what the run was started with (recipe, model, data)
run/recipe.json, run/log.jsonl        the recipe; one line per logging step
run/stage-1-recurrence/checkpoint-200/...
run/config.json, model.safetensors, tokenizer files                           only when finished
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import SAFE_WEIGHTS_NAME

from hmt.backbone import align
from hmt.util.files import check_own_folder, write_atomically

RECORD = "run.json"
LOG = "log.jsonl"


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a stage; the Trainer writes its state last, without it one is torn."""
    found = []
    for path in folder.glob("checkpoint-*"):
        number = re.fullmatch(r"checkpoint-(\d+)", path.name)
        try:
            state = json.loads((path / TRAINER_STATE_NAME).read_text())
        except (OSError, ValueError):
            continue
        if number and isinstance(state, dict) and state.get("global_step") == int(number[1]):
            found.append((int(number[1]), path))
    return max(found)[1] if found else None


def checkpoint_step(path: Path) -> int:
    """The optimizer step in a checkpoint folder's name."""
    return int(path.name.rsplit("-", 1)[1])


@torch.no_grad()
def load_weights(model, folder: Path) -> None:
    """Copy the weights of a checkpoint, whole or adapter-only, into a model of the same shape.

    ValueError when names or shapes do not fit. Unlike the Trainer's own loader this one does not pass over
    missing tensors.
    """
    if json.loads((folder / "config.json").read_text(encoding="utf-8")).get("adapter_only"):
        model.load_trained(folder / SAFE_WEIGHTS_NAME)
    else:
        _load_whole(model, folder)
    align(model)  # copies do not move weights


def _load_whole(model, folder: Path) -> None:
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    weights: dict[str, Any] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        weights |= load_file(file)
    # tied weights are stored once
    stored = {own[name].data_ptr() for name in weights if name in own}
    expected = {n for n, p in model.named_parameters() if n in weights or p.data_ptr() not in stored}
    wrong = sorted(name for name in weights if name not in own or own[name].shape != weights[name].shape)
    if wrong or expected - weights.keys():
        raise ValueError(
            f"the checkpoint {folder} does not fit this model: it lacks {sorted(expected - weights.keys())}, "
            f"and these have no place or another shape: {wrong}"
        )
    for name, value in weights.items():
        own[name].copy_(value)


def check_folder(folder: Path, resume: bool) -> None:
    """ValueError or OSError when no run can begin, or go on, in `folder`."""
    check_own_folder(folder, RECORD, "run to resume")
    if (folder / RECORD).is_file() and not resume:
        raise ValueError(
            f"{folder} already holds a run: pass resume=True (hmt train: --resume) to go on with it, or "
            "choose another folder"
        )


def check_record(folder: Path, record: dict[str, Any]) -> None:
    """ValueError, with every difference, when the run in `folder` was begun with other settings."""
    file = folder / RECORD
    if not file.is_file():
        return
    try:
        before = _flat(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged ({error}); begin a new run in another folder") from None
    now = _flat(json.loads(json.dumps(record)))
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if names:
        changes = "; ".join(f"{name} was {before.get(name)!r}, is {now.get(name)!r}" for name in names)
        raise ValueError(
            f"the run in {folder} cannot be resumed with other settings: {changes}. Go back to the old "
            "ones, or begin a new run in another folder"
        )


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write what the run is started with, for `check_record`."""
    write_atomically(folder / RECORD, (json.dumps(record, indent=2) + "\n").encode())


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """{"a": {"b": [1]}} -> {"a.b[0]": 1}."""
    if isinstance(value, dict):
        parts = [_flat(item, f"{name}.{key}" if name else key) for key, item in value.items()]
    elif isinstance(value, list):
        parts = [_flat(item, f"{name}[{index}]") for index, item in enumerate(value)]
    else:
        return {name: value}
    return {key: item for part in parts for key, item in part.items()}


def trim_log(folder: Path, stage: int, step: int) -> None:
    """Drop the lines of steps that will be made again after `step` of stage number `stage`."""
    file = folder / LOG
    if not file.is_file():
        return
    kept = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:  # the process died while writing it
            continue
        if (entry["stage"], entry["step"]) <= (stage, step):
            kept.append(line + "\n")
    write_atomically(file, "".join(kept).encode())


def is_finished(folder: Path) -> bool:
    """Whether the folder holds the final model: its config is written last."""
    return (folder / "config.json").is_file()


def save_final(model, tokenizer, folder: Path) -> None:
    """Model and tokenizer into `folder`, `config.json` last: only with it the folder is a model."""
    draft = folder / ".final"
    shutil.rmtree(draft, ignore_errors=True)
    model.save_pretrained(draft)
    if tokenizer is not None:
        tokenizer.save_pretrained(draft)
    for path in sorted(draft.iterdir(), key=lambda path: path.name == "config.json"):
        target = folder / path.name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(path, target)
    draft.rmdir()
