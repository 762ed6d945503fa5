"""The tasks. A new one is a file in this folder and a line here."""

from __future__ import annotations

import importlib
from dataclasses import fields
from typing import Any

from hmt.evaluation.tasks.base import Task

# name -> module of this folder and class
TASKS = {
    "text": "text:Text",
    "books": "text:Books",
    "wikitext": "text:WikiText",
    "wikipedia": "text:Wikipedia",
    "recall_distance": "probes:RecallDistance",
    "pubmedqa": "pubmedqa:PubMedQA",
    "key_value": "key_value:KeyValue",
    "passkey": "passkey:Passkey",
    "needles": "needles:Needles",
    "variables": "variables:VariableTracking",
}


def task_class(name: str) -> type[Task]:
    """The class of a task. ValueError, listing them, for a name that is none."""
    if name not in TASKS:
        raise ValueError(f"there is no task {name!r}; choose from {', '.join(TASKS)}")
    module, _, kind = TASKS[name].partition(":")
    return getattr(importlib.import_module(f"hmt.evaluation.tasks.{module}"), kind)


def make_task(name: str, **settings: Any) -> Task:
    """A task with these settings. ValueError for settings that it does not have."""
    kind = task_class(name)
    for key in sorted(settings):
        check_setting(name, key)
    return kind(**settings)


def check_setting(name: str, key: str) -> None:
    """ValueError, listing those there are, unless the task `name` has the setting `key`."""
    known = {f.name for f in fields(task_class(name))}
    if key not in known:
        raise ValueError(f"{name} has no setting {key!r}; it has {', '.join(sorted(known))}")
